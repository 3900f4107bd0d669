package publish

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
)

// maxRulesets is how many rulesets of a repository are looked at.
const maxRulesets = 50

// About is what GitHub says of a repository.
type About struct {
	Name        string `json:"full_name"` // OWNER/NAME as it is now
	Private     bool   `json:"private"`
	Archived    bool   `json:"archived"`
	Permissions struct {
		Admin bool `json:"admin"`
	} `json:"permissions"` // of the token
}

// About asks what the repository is.
func (r *Repository) About(ctx context.Context) (*About, error) {
	about := new(About)
	return about, r.do(ctx, "read the repository", http.MethodGet, r.path, nil, about)
}

// Unknown reports whether err means that the token may not know, or that there is no such thing:
// GitHub does not tell them apart.
func Unknown(err error) bool {
	return errors.Is(err, errNotFound) || errors.As(err, new(*PermissionError))
}

// ImmutableReleases reports whether what is published cannot be changed any more.
func (r *Repository) ImmutableReleases(ctx context.Context) (bool, error) {
	var a struct {
		Enabled bool `json:"enabled"`
	}
	return a.Enabled, r.do(ctx, "read whether releases are immutable", http.MethodGet, r.path+"/immutable-releases", nil, &a)
}

// DefaultPermissions are those of a job that names none: read or write.
func (r *Repository) DefaultPermissions(ctx context.Context) (string, error) {
	var a struct {
		Default string `json:"default_workflow_permissions"`
	}
	return a.Default, r.do(ctx, "read the default permissions of workflows", http.MethodGet, r.path+"/actions/permissions/workflow", nil, &a)
}

// Allowed says which actions the workflows of a repository may use.
type Allowed struct {
	Enabled  bool     `json:"enabled"`
	Actions  string   `json:"allowed_actions"`      // all, local_only, selected
	Pinned   bool     `json:"sha_pinning_required"` // by commits only
	Patterns []string `json:"patterns_allowed"`     // of selected
}

// Allows reports whether a workflow may use OWNER/NAME@REF of another owner.
func (a *Allowed) Allows(uses string) bool {
	switch a.Actions {
	case "all", "":
		return true
	case "selected":
		for _, pattern := range a.Patterns {
			parts := strings.Split(pattern, "*")
			for i := range parts {
				parts[i] = regexp.QuoteMeta(parts[i])
			}
			if ok, err := regexp.MatchString("^(?i:"+strings.Join(parts, ".*")+")(@.*)?$", uses); err == nil && ok {
				return true
			}
		}
	}
	return false
}

// AllowedActions asks which actions workflows may use.
func (r *Repository) AllowedActions(ctx context.Context) (*Allowed, error) {
	a := new(Allowed)
	err := r.do(ctx, "read which actions are allowed", http.MethodGet, r.path+"/actions/permissions", nil, a)
	if err == nil && a.Actions == "selected" {
		err = r.do(ctx, "read which actions are allowed", http.MethodGet, r.path+"/actions/permissions/selected-actions", nil, a)
	}
	return a, err
}

// TagRules are an active ruleset of tags: what it restricts for refs.
type TagRules struct {
	Name             string
	Include, Exclude []string // patterns of refs, ~ALL
	Rules            []string // creation, update, deletion and others
}

// Covers reports whether the rules are about a tag.
func (t *TagRules) Covers(tag string) bool {
	is := func(pattern string) bool {
		return pattern == "~ALL" || refPattern(pattern).MatchString("refs/tags/"+tag)
	}
	covered := false
	for _, p := range t.Include {
		covered = covered || is(p)
	}
	for _, p := range t.Exclude {
		covered = covered && !is(p)
	}
	return covered
}

// refPattern reads a pattern as Ruby's fnmatch with paths does.
func refPattern(pattern string) *regexp.Regexp {
	q := regexp.QuoteMeta(pattern)
	for _, r := range [][2]string{{`\*\*/`, "(?:.*/)?"}, {`\*\*`, ".*"}, {`\*`, "[^/]*"}, {`\?`, "[^/]"}} {
		q = strings.ReplaceAll(q, r[0], r[1])
	}
	return regexp.MustCompile("^" + q + "$")
}

// TagRules returns the active rulesets of tags.
func (r *Repository) TagRules(ctx context.Context) ([]TagRules, error) {
	var list []struct {
		ID                  int64
		Target, Enforcement string
	}
	if err := r.do(ctx, "list rulesets", http.MethodGet, fmt.Sprintf("%s/rulesets?targets=tag&per_page=%d", r.path, maxRulesets), nil, &list); err != nil {
		return nil, err
	}
	var all []TagRules
	for _, one := range list {
		if one.Target != "tag" || one.Enforcement != "active" {
			continue
		}
		var a struct {
			Name       string
			Conditions struct {
				RefName struct{ Include, Exclude []string } `json:"ref_name"`
			}
			Rules []struct{ Type string }
		}
		if err := r.do(ctx, "read a ruleset", http.MethodGet, fmt.Sprintf("%s/rulesets/%d", r.path, one.ID), nil, &a); err != nil {
			return nil, err
		}
		t := TagRules{Name: a.Name, Include: a.Conditions.RefName.Include, Exclude: a.Conditions.RefName.Exclude}
		for _, rule := range a.Rules {
			t.Rules = append(t.Rules, rule.Type)
		}
		all = append(all, t)
	}
	return all, nil
}

// Protected reports whether an environment has a rule, such as people who must approve.
func (r *Repository) Protected(ctx context.Context, environment string) (bool, error) {
	var a struct {
		Rules  []struct{ Type string } `json:"protection_rules"`
		Policy *struct{}               `json:"deployment_branch_policy"`
	}
	err := r.do(ctx, "read environment "+environment, http.MethodGet, r.path+"/environments/"+url.PathEscape(environment), nil, &a)
	return len(a.Rules) > 0 || a.Policy != nil, err
}
