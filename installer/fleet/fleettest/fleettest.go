// Package fleettest is a double of a hawkBit server, as far as its devices see it: the
// calls, states and status codes of the Direct Device Integration API, and rollouts with
// groups and thresholds.
//
// It was written from hawkBit's published API document (docs/rest-api/ddi.html: OpenAPI
// 3.0.1, 16 paths) and from what its root controller does with each feedback. hawkBit
// itself was not run beside it. Not in it: CBOR, downloads of artifacts by rules of access,
// weights of actions, automatic confirmation, and quotas other than that of messages.
package fleettest

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Limits of hawkBit 1.x as it is shipped.
const (
	maxStatusEntries = 1000
	maxMessages      = 50
	maxAttributes    = 100
	maxAttributeLen  = 128
)

// Action is what is assigned to one target.
type Action struct {
	ID      int
	Target  string
	Module  string // name of the software module
	Version string
	Part    string // type of the module; bApp when it is empty
	More    []Chunk

	Download, Update, Window string // as in the answer; forced, forced and none when empty
	DownloadOnly             bool
	Group                    int // of the rollout, from 1; 0 for none

	// State is running, confirm, canceling, downloaded, finished, error or canceled.
	State    string
	Messages []string // what was told: execution/finished code details
	Finals   int      // how often its end was told and taken
	Late     int      // how often anything was told after its end
}

// Chunk is a module of an action beside the first one.
type Chunk struct{ Name, Version string }

// Active reports whether the server waits for it.
func (a Action) Active() bool {
	return a.State == "running" || a.State == "confirm" || a.State == "canceling"
}

// Target is a device as the server knows it.
type Target struct {
	Attributes map[string]string
	Installed  string // version that was told by installedBase, or by the end of an action
	Polls      int
	asked      bool // for attributes
}

// Server is the double. Its fields are set before it serves.
type Server struct {
	Token, Gateway string // wanted of each request, when one is set
	Sleep          string // HH:MM:SS; 00:05:00 when it is empty
	// Lenient takes members that are not in the document: hawkBit does, and swupdate
	// sends some.
	Lenient bool
	// Sets are versions that installedBase may name; nil: every one.
	Sets map[string]bool
	// Artifact has what chunks carry; nil for none. Its links are below Base.
	Artifact func(a *Action) []map[string]any
	// Wrong changes answers before they are sent; for servers that are taken over.
	Wrong func(path string, answer map[string]any)

	mu       sync.Mutex
	actions  []*Action
	next     int
	targets  map[string]*Target
	problems []string
	requests int
	rollout  *Rollout
}

// Rollout is one version for groups of targets, one group after the other.
type Rollout struct {
	Module, Version string
	Groups          [][]string
	Success, Error  float64 // shares at which the next group begins, and at which all stops
	Begun           int     // groups
	Halted          bool
}

// Assign assigns an action and returns its number.
func (s *Server) Assign(a Action) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.assign(a)
}

func (s *Server) assign(a Action) int {
	s.next++
	a.ID = s.next
	if a.State == "" {
		a.State = "running"
	}
	s.actions = append(s.actions, &a)
	return a.ID
}

// Cancel asks a target to stop an action.
func (s *Server) Cancel(id int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a := s.find(id); a.Active() {
		a.State = "canceling"
	}
}

// Set changes an action.
func (s *Server) Set(id int, change func(*Action)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change(s.find(id))
}

// Action is a copy of one.
func (s *Server) Action(id int) Action {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := *s.find(id)
	a.Messages = slices.Clone(a.Messages)
	return a
}

// Actions are copies of all.
func (s *Server) Actions() (all []Action) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range s.actions {
		all = append(all, *a)
	}
	return all
}

// Target is a copy of what is known of one.
func (s *Server) Target(id string) Target {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.targets[id]; t != nil {
		return *t
	}
	return Target{}
}

// Problems are requests that hawkBit would not understand.
func (s *Server) Problems() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.problems)
}

// Requests is how many there were.
func (s *Server) Requests() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.requests
}

// Forget is a restart with an empty database: names of actions begin at 1 again.
func (s *Server) Forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.actions, s.next, s.targets, s.rollout = nil, 0, nil, nil
}

// Start begins the first group of a rollout.
func (s *Server) Start(r Rollout) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rollout = &r
	s.begin()
}

// Settled reports whether no action is open, and no group is to come.
func (s *Server) Settled() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(s.actions, func(a *Action) bool { return a.Active() }) && (s.rollout == nil || s.rollout.Halted || s.rollout.Begun == len(s.rollout.Groups))
}

// Rollout is a copy of the one that was started.
func (s *Server) Rollout() Rollout {
	s.mu.Lock()
	defer s.mu.Unlock()
	return *s.rollout
}

func (s *Server) begin() {
	r := s.rollout
	for _, target := range r.Groups[r.Begun] {
		s.assign(Action{Target: target, Module: r.Module, Version: r.Version, Group: r.Begun + 1})
	}
	r.Begun++
}

// advance begins the next group when enough of the last one is well, and halts when too
// many of any are not.
func (s *Server) advance() {
	r := s.rollout
	if r == nil || r.Halted {
		return
	}
	good, bad := make([]float64, r.Begun+1), make([]float64, r.Begun+1)
	for _, a := range s.actions {
		switch a.State {
		case "finished":
			good[a.Group]++
		case "error":
			bad[a.Group]++
		}
	}
	for i, group := range r.Groups[:r.Begun] {
		switch n := float64(len(group)); {
		case bad[i+1]/n >= r.Error:
			r.Halted = true
			return
		case i == r.Begun-1 && good[i+1]/n >= r.Success && r.Begun < len(r.Groups):
			s.begin()
			return
		}
	}
}

func (s *Server) find(id int) *Action {
	for _, a := range s.actions {
		if a.ID == id {
			return a
		}
	}
	return nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests++
	code, answer := s.serve(r)
	if code != http.StatusOK || answer == nil {
		w.WriteHeader(code)
		return
	}
	if s.Wrong != nil {
		s.Wrong(r.URL.Path, answer)
	}
	w.Header().Set("Content-Type", "application/hal+json")
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) serve(r *http.Request) (int, map[string]any) {
	parts := strings.Split(strings.Trim(r.URL.Path, "/"), "/")
	if len(parts) < 4 || parts[1] != "controller" || parts[2] != "v1" {
		return s.problem(http.StatusNotFound, r, "there is no such path")
	}
	id, rest := parts[3], parts[4:]
	if auth := r.Header.Get("Authorization"); (s.Token != "" || s.Gateway != "") && !(s.Token != "" && auth == "TargetToken "+s.Token) && !(s.Gateway != "" && auth == "GatewayToken "+s.Gateway) {
		return http.StatusUnauthorized, nil
	}
	var body map[string]any
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		if media, _, _ := mime.ParseMediaType(r.Header.Get("Content-Type")); media != "application/json" {
			return s.problem(http.StatusUnsupportedMediaType, r, "media type "+media)
		}
		d := json.NewDecoder(io.LimitReader(r.Body, 1<<20))
		d.UseNumber()
		if err := d.Decode(&body); err != nil {
			return s.problem(http.StatusBadRequest, r, err.Error())
		}
	}
	if len(rest) == 0 {
		if r.Method != http.MethodGet {
			return s.problem(http.StatusMethodNotAllowed, r, "method")
		}
		return http.StatusOK, s.base(r, id)
	}
	if s.targets[id] == nil {
		return http.StatusNotFound, nil
	}
	switch {
	case len(rest) == 1 && r.Method == http.MethodPut && rest[0] == "configData":
		return s.configData(r, id, body)
	case len(rest) == 1 && r.Method == http.MethodPut && rest[0] == "installedBase":
		return s.installedBase(r, id, body)
	case len(rest) == 2 && r.Method == http.MethodGet, len(rest) == 3 && rest[2] == "feedback" && r.Method == http.MethodPost:
	default:
		return s.problem(http.StatusNotFound, r, "there is no such call")
	}
	n, err := strconv.Atoi(rest[1])
	if err != nil {
		return s.problem(http.StatusBadRequest, r, "the name of an action is a number")
	}
	a := s.find(n)
	if a == nil || a.Target != id {
		return http.StatusNotFound, nil
	}
	if len(rest) == 2 {
		return s.get(rest[0], a)
	}
	return s.feedback(r, rest[0], a, body)
}

func (s *Server) problem(code int, r *http.Request, text string) (int, map[string]any) {
	s.problems = append(s.problems, fmt.Sprintf("%s %s: %s", r.Method, r.URL.Path, text))
	return code, nil
}

// base registers a target that is not known, as hawkBit does, and says what is to be done.
func (s *Server) base(r *http.Request, id string) map[string]any {
	if s.targets == nil {
		s.targets = map[string]*Target{}
	}
	t := s.targets[id]
	if t == nil {
		t = &Target{asked: true, Attributes: map[string]string{}}
		s.targets[id] = t
	}
	t.Polls++
	self := "http://" + r.Host + strings.TrimSuffix(r.URL.Path, "/")
	href := func(rest string) map[string]any { return map[string]any{"href": self + rest} }
	links := map[string]any{}
	if t.asked {
		links["configData"] = href("/configData")
	}
	for _, a := range s.actions { // the oldest that is active
		if a.Target != id || !a.Active() {
			continue
		}
		switch a.State {
		case "confirm":
			links["confirmationBase"] = href(fmt.Sprintf("/confirmationBase/%d?c=-1", a.ID))
		case "canceling":
			links["cancelAction"] = href(fmt.Sprintf("/cancelAction/%d", a.ID))
		default:
			links["deploymentBase"] = href(fmt.Sprintf("/deploymentBase/%d?c=-2127183556", a.ID))
		}
		break
	}
	sleep := s.Sleep
	if sleep == "" {
		sleep = "00:05:00"
	}
	return map[string]any{"config": map[string]any{"polling": map[string]any{"sleep": sleep}}, "_links": links}
}

func (s *Server) get(what string, a *Action) (int, map[string]any) {
	id := strconv.Itoa(a.ID)
	switch {
	case what == "deploymentBase" && a.State != "canceling" && a.State != "canceled" && a.State != "confirm":
		return http.StatusOK, map[string]any{"id": id, "deployment": s.deployment(a)}
	case what == "confirmationBase" && a.State == "confirm":
		return http.StatusOK, map[string]any{"id": id, "confirmation": s.deployment(a)}
	case what == "cancelAction" && (a.State == "canceling" || a.State == "canceled"):
		return http.StatusOK, map[string]any{"id": id, "cancelAction": map[string]any{"stopId": id}}
	}
	return http.StatusNotFound, nil
}

func or(s, def string) string {
	if s == "" {
		return def
	}
	return s
}

func (s *Server) deployment(a *Action) map[string]any {
	artifacts := []map[string]any{}
	if s.Artifact != nil {
		artifacts = s.Artifact(a)
	}
	chunks := []map[string]any{{"part": or(a.Part, "bApp"), "name": a.Module, "version": a.Version, "artifacts": artifacts}}
	for _, c := range a.More {
		chunks = append(chunks, map[string]any{"part": "os", "name": c.Name, "version": c.Version, "artifacts": []any{}})
	}
	update := or(a.Update, "forced")
	if a.DownloadOnly {
		update = "skip"
	}
	d := map[string]any{"download": or(a.Download, "forced"), "update": update, "chunks": chunks}
	if a.Window != "" {
		if d["maintenanceWindow"] = a.Window; a.Window == "unavailable" {
			d["update"] = "skip"
		}
	}
	return d
}

func (s *Server) configData(r *http.Request, id string, body map[string]any) (int, map[string]any) {
	if p := s.check(body, configData, "body"); p != "" {
		return s.problem(http.StatusBadRequest, r, p)
	}
	t := s.targets[id]
	data := body["data"].(map[string]any)
	if body["mode"] == "replace" {
		t.Attributes = map[string]string{}
	}
	for k, v := range data {
		if len(k) > maxAttributeLen || len(v.(string)) > maxAttributeLen {
			return s.problem(http.StatusBadRequest, r, "attribute "+k+" is too long")
		}
		if t.Attributes[k] = v.(string); body["mode"] == "remove" {
			delete(t.Attributes, k)
		}
	}
	if len(t.Attributes) > maxAttributes {
		return s.problem(http.StatusTooManyRequests, r, "too many attributes")
	}
	t.asked = false
	return http.StatusOK, nil
}

func (s *Server) installedBase(r *http.Request, id string, body map[string]any) (int, map[string]any) {
	if p := s.check(body, assignedVersion, "body"); p != "" {
		return s.problem(http.StatusBadRequest, r, p)
	}
	version := body["version"].(string)
	if s.Sets != nil && !s.Sets[version] {
		return http.StatusNotFound, nil
	}
	s.targets[id].Installed = version
	return http.StatusOK, nil
}

func (s *Server) feedback(r *http.Request, what string, a *Action, body map[string]any) (int, map[string]any) {
	want := actionFeedback
	if what == "confirmationBase" {
		want = confirmationFeedback
	}
	if p := s.check(body, want, "body"); p != "" {
		return s.problem(http.StatusBadRequest, r, p)
	}
	if what == "confirmationBase" {
		switch {
		case !a.Active():
			a.Late++
			return http.StatusGone, nil
		case a.State != "confirm":
			return http.StatusNotFound, nil
		}
		word := body["confirmation"].(string)
		if a.Messages = append(a.Messages, word); word == "confirmed" {
			a.State = "running"
		}
		return http.StatusOK, nil
	}
	status := body["status"].(map[string]any)
	execution, finished := status["execution"].(string), status["result"].(map[string]any)["finished"].(string)
	text := execution + "/" + finished
	if code, ok := status["code"]; ok {
		text += " " + code.(json.Number).String()
	}
	list, _ := status["details"].([]any)
	for _, d := range list {
		text += " | " + d.(string)
	}
	switch what {
	case "deploymentBase":
		switch {
		case a.State == "confirm":
			return http.StatusNotFound, nil
		case !a.Active():
			a.Late++
			return http.StatusGone, nil
		case execution != "closed" && (len(a.Messages) >= maxStatusEntries || len(list) > maxMessages):
			return http.StatusTooManyRequests, nil
		}
		a.Messages = append(a.Messages, text)
		switch {
		case execution == "closed" && finished == "failure":
			a.State = "error"
			a.Finals++
		case execution == "closed":
			a.State = "finished"
			a.Finals++
			s.targets[a.Target].Installed, s.targets[a.Target].asked = a.Version, true
		case execution == "downloaded" && a.DownloadOnly:
			a.State = "downloaded"
		}
	case "cancelAction":
		if a.State != "canceling" && a.State != "canceled" {
			return http.StatusMethodNotAllowed, nil
		}
		a.Messages = append(a.Messages, "cancel: "+text)
		switch {
		case execution == "closed" && finished != "failure":
			if a.State == "canceling" {
				a.Finals++
			}
			a.State = "canceled"
		case execution == "closed" || execution == "rejected":
			a.State = "running"
		}
	default:
		return s.problem(http.StatusNotFound, r, "there is no such call")
	}
	s.advance()
	return http.StatusOK, nil
}

// schema is what the document says of a value.
type schema struct {
	kind     string // object, string, int32, int64, strings, map
	required []string
	props    map[string]schema
	enum     []string
}

var (
	text            = schema{kind: "string"}
	assignedVersion = schema{kind: "object", required: []string{"name", "version"}, props: map[string]schema{"name": text, "version": text}}
	configData      = schema{kind: "object", required: []string{"data"}, props: map[string]schema{"data": {kind: "map"}, "mode": {kind: "string", enum: []string{"merge", "replace", "remove"}}}}
	result          = schema{kind: "object", required: []string{"finished"}, props: map[string]schema{
		"finished": {kind: "string", enum: []string{"success", "failure", "none"}},
		"progress": {kind: "object", required: []string{"cnt"}, props: map[string]schema{"cnt": {kind: "int32"}, "of": {kind: "int32"}}},
	}}
	actionFeedback = schema{kind: "object", required: []string{"status"}, props: map[string]schema{
		"timestamp": {kind: "int64"},
		"status": {kind: "object", required: []string{"execution", "result"}, props: map[string]schema{
			"execution": {kind: "string", enum: []string{"closed", "proceeding", "canceled", "scheduled", "rejected", "resumed", "downloaded", "download"}},
			"result":    result, "code": {kind: "int32"}, "details": {kind: "strings"},
		}},
	}}
	confirmationFeedback = schema{kind: "object", required: []string{"confirmation"}, props: map[string]schema{
		"confirmation": {kind: "string", enum: []string{"confirmed", "denied"}}, "code": {kind: "int32"}, "details": {kind: "strings"},
	}}
)

// check says how v differs from a schema.
func (s *Server) check(v any, want schema, name string) string {
	switch want.kind {
	case "object":
		m, ok := v.(map[string]any)
		if !ok {
			return name + " is no object"
		}
		for _, k := range want.required {
			if m[k] == nil {
				return name + " has no " + k
			}
		}
		for k, member := range m {
			is, known := want.props[k]
			if !known && !s.Lenient {
				return name + " has " + k + ", which is not in the document"
			}
			if known {
				if p := s.check(member, is, name+"."+k); p != "" {
					return p
				}
			}
		}
	case "string":
		text, ok := v.(string)
		if !ok || len(want.enum) > 0 && !slices.Contains(want.enum, text) {
			return fmt.Sprintf("%s is %v", name, v)
		}
	case "int32", "int64":
		number, _ := v.(json.Number)
		n, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil || want.kind == "int32" && (n > math.MaxInt32 || n < math.MinInt32) {
			return fmt.Sprintf("%s is %v, no %s", name, v, want.kind)
		}
	case "strings":
		list, ok := v.([]any)
		for _, one := range list {
			if _, is := one.(string); !is {
				ok = false
			}
		}
		if !ok {
			return name + " is no list of texts"
		}
	case "map":
		m, ok := v.(map[string]any)
		for _, one := range m {
			if _, is := one.(string); !is {
				ok = false
			}
		}
		if !ok {
			return name + " is no map of texts"
		}
	}
	return ""
}
