package bundle

import "fmt"

// FormatError says that a file is not a well-formed bundle. Rule is the name of
// the rule in FORMAT.md that it breaks, Path the entry that breaks it.
type FormatError struct {
	Rule   string
	Path   string
	Detail string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("not an acceptable bundle: %s (rule %s)", e.Detail, e.Rule)
	}
	return fmt.Sprintf("not an acceptable bundle: %s: %s (rule %s)", e.Path, e.Detail, e.Rule)
}

// Kind names these errors for front ends.
func (e *FormatError) Kind() string { return "format" }

func formatErr(rule, path, format string, args ...any) error {
	return &FormatError{Rule: rule, Path: path, Detail: fmt.Sprintf(format, args...)}
}
