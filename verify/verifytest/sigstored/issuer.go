package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
)

// githubIssuer is the real one's name: certificates carry it, and policies ask
// for it. Only this process believes that it lives here.
const githubIssuer = "https://token.actions.githubusercontent.com"

// issuer plays the OIDC provider of GitHub Actions: the discovery documents that
// Fulcio reads, and the endpoint where a job asks for its token.
type issuer struct {
	key    *rsa.PrivateKey
	signer jose.Signer
	bearer string // what a job shows to get a token
}

func newIssuer() (*issuer, error) {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return nil, err
	}
	signer, err := jose.NewSigner(
		jose.SigningKey{Algorithm: jose.RS256, Key: jose.JSONWebKey{Key: key, KeyID: "sigstored"}},
		new(jose.SignerOptions).WithType("JWT"))
	if err != nil {
		return nil, err
	}
	return &issuer{key, signer, rand.Text()}, nil
}

// discovery serves what relying parties read. GitHub gives an enterprise an
// issuer of its own below the common one, with the same keys.
func (i *issuer) discovery() http.Handler {
	mux := http.NewServeMux()
	document := func(w http.ResponseWriter, r *http.Request) {
		iss := githubIssuer
		if e := r.PathValue("enterprise"); e != "" {
			iss += "/" + e
		}
		writeJSON(w, map[string]any{
			"issuer":                                iss,
			"jwks_uri":                              githubIssuer + "/.well-known/jwks",
			"response_types_supported":              []string{"id_token"},
			"subject_types_supported":               []string{"public"},
			"id_token_signing_alg_values_supported": []string{"RS256"},
		})
	}
	mux.HandleFunc("GET /.well-known/openid-configuration", document)
	mux.HandleFunc("GET /{enterprise}/.well-known/openid-configuration", document)
	mux.HandleFunc("GET /.well-known/jwks", func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{
			Key: i.key.Public(), KeyID: "sigstored", Algorithm: "RS256", Use: "sig",
		}}})
	})
	return mux
}

// tokens serves the endpoint that a runner puts in ACTIONS_ID_TOKEN_REQUEST_URL.
func (i *issuer) tokens() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		scheme, bearer, _ := strings.Cut(r.Header.Get("Authorization"), " ")
		if !strings.EqualFold(scheme, "bearer") || bearer != i.bearer {
			http.Error(w, "the bearer token is not ACTIONS_ID_TOKEN_REQUEST_TOKEN", http.StatusUnauthorized)
			return
		}
		c, err := claims(r.URL.Query(), time.Now())
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		token, err := jwt.Signed(i.signer).Claims(c).Serialize()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		writeJSON(w, map[string]any{"count": len(token), "value": token})
	})
}

// claims returns what GitHub would say about the job that q describes. Without
// any parameter that is a tag pushed to valise-test/app, whose release.yml runs.
//
// repository, ref, workflow (a file below .github/workflows), event_name,
// environment, enterprise, actor, run_id and sha shape the other claims; then
// any claim can be given as it is, job_workflow_ref of a reusable workflow for
// one. A name that GitHub has not is an error.
func claims(q url.Values, now time.Time) (map[string]any, error) {
	given := func(name, otherwise string) string {
		if q.Has(name) {
			return q.Get(name)
		}
		return otherwise
	}
	var (
		repository = given("repository", "valise-test/app")
		event      = given("event_name", "push")
		actor      = given("actor", "octocat")
		run        = given("run_id", "1")
		head, base string
	)
	owner, name, ok := strings.Cut(repository, "/")
	if !ok || owner == "" || name == "" || strings.Contains(name, "/") {
		return nil, fmt.Errorf("repository %q is not of the form OWNER/NAME", repository)
	}
	ref := "refs/tags/v1.0.0"
	if event == "pull_request" {
		ref, head, base = "refs/pull/1/merge", "change", "main"
	}
	ref = given("ref", ref)
	refType := "branch"
	if strings.HasPrefix(ref, "refs/tags/") {
		refType = "tag"
	}
	sha := sha1.Sum([]byte(repository + "@" + ref)) // any commit, the same each time
	commit := given("sha", hex.EncodeToString(sha[:]))
	file := ".github/workflows/" + given("workflow", "release.yml")
	workflow := repository + "/" + file + "@" + ref

	iss, subject := githubIssuer, "ref:"+ref
	if e := q.Get("enterprise"); e != "" {
		iss += "/" + e
	}
	if event == "pull_request" {
		subject = event
	}
	if e := q.Get("environment"); e != "" {
		subject = "environment:" + e
	}

	c := map[string]any{
		"actor":                 actor,
		"actor_id":              number(actor),
		"aud":                   given("audience", "https://github.com/"+owner),
		"base_ref":              base,
		"event_name":            event,
		"head_ref":              head,
		"job_workflow_ref":      workflow,
		"job_workflow_sha":      commit,
		"jti":                   rand.Text(),
		"ref":                   ref,
		"ref_protected":         "false",
		"ref_type":              refType,
		"repository":            repository,
		"repository_id":         number(repository),
		"repository_owner":      owner,
		"repository_owner_id":   number(owner),
		"repository_visibility": "public",
		"run_attempt":           "1",
		"run_id":                run,
		"run_number":            "1",
		"runner_environment":    "github-hosted",
		"sha":                   commit,
		"sub":                   "repo:" + repository + ":" + subject,
		"workflow":              file, // GitHub's name for a workflow without one
		"workflow_ref":          workflow,
		"workflow_sha":          commit,

		"iss": iss,
		"iat": now.Unix(),
		"nbf": now.Add(-10 * time.Minute).Unix(),
		"exp": now.Add(5 * time.Minute).Unix(),
	}
	for name := range q {
		switch name {
		case "api-version", "audience", "workflow": // no claim, or another's name
			continue
		case "enterprise", "environment": // only there if given
			c[name] = ""
		}
		if _, ok := c[name]; !ok {
			return nil, fmt.Errorf("GitHub's tokens have no claim %q", name)
		}
		if _, ok := c[name].(string); !ok || name == "iss" {
			return nil, fmt.Errorf("claim %q cannot be set", name)
		}
		c[name] = q.Get(name)
	}
	return c, nil
}

// number makes an id of a name, the same each time.
func number(name string) string {
	h := fnv.New32a()
	h.Write([]byte(name))
	return strconv.FormatUint(uint64(h.Sum32()), 10)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	json.NewEncoder(w).Encode(v) // a reader that went away needs no answer
}
