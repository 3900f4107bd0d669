package bundle

// SplitTag splits a git tag into what stands before the version, and the version:
// "v" and "1.2.3" of v1.2.3, "shop-v" and "1.2.3-rc.1" of shop-v1.2.3-rc.1. The
// tags of one app have one prefix, which no digit or dot ends. It reports false for
// a tag that does not end in a version.
func SplitTag(tag string) (prefix, version string, ok bool) {
	digit := func(c byte) bool { return '0' <= c && c <= '9' }
	for i := range len(tag) {
		if !digit(tag[i]) || i > 0 && (digit(tag[i-1]) || tag[i-1] == '.') {
			continue
		}
		if _, err := ParseVersion(tag[i:]); err == nil {
			return tag[:i], tag[i:], true
		}
	}
	return "", "", false
}
