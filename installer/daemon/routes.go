package daemon

import (
	"net/http"

	"github.com/valise-ota/valise/installer"
)

// Prefix is where the API is.
const Prefix = "/api/v1/ota"

// uploads is where raw uploads are, beside the API: only the page's process and
// the usb command speak them.
const uploads = "/uploads"

// Scope is the permission that a call needs.
type Scope string

// The scopes.
const (
	Read   Scope = "read"
	Look   Scope = "check"
	Send   Scope = "upload"
	Act    Scope = "apply" // also roll back, start, stop and save
	Manage Scope = "admin" // delete, force, restore, settings, what services print
)

// Route is one call of the API. Handlers, the permissions that the page asks for,
// and openapi.json come from the same table; a call that is not in it is not there.
type Route struct {
	Method, Path string // below Prefix
	Scope        Scope
	Summary      string
	Answer       string    // what a success holds, when its type does not say it
	Created      bool      // its status is 201
	Empty        bool      // its status is 204
	Also         []Refusal // other successes
	Query        any       // a struct of the parameters beside app; nil: none
	Headers      any       // likewise
	Refuses      []Refusal // beside those of every call
	endpoint
}

// Refusal is a status that a call may answer, and when.
type Refusal struct {
	Status int
	When   string
}

// endpoint is who answers a call, and what comes and goes: values of the types,
// nil for nothing. It is JSON where no media type is given.
type endpoint struct {
	In, Out           any
	InMedia, OutMedia string
	serve             func(*app, http.ResponseWriter, *http.Request) (any, error)
	whole             func(*Daemon, http.ResponseWriter, *http.Request) // a call about no app
}

// gives is a call that takes nothing.
func gives[Out any](h func(*app, *http.Request) (Out, error)) endpoint {
	return endpoint{Out: *new(Out), serve: func(a *app, _ http.ResponseWriter, r *http.Request) (any, error) { return h(a, r) }}
}

// takes is a call that takes JSON of known members. An empty body is fine where
// nothing is required.
func takes[In, Out any](h func(*app, *http.Request, In) (Out, error)) endpoint {
	return endpoint{In: *new(In), Out: *new(Out), serve: func(a *app, _ http.ResponseWriter, r *http.Request) (any, error) {
		var in In
		if err := body(r, &in); err != nil {
			return nil, err
		}
		return h(a, r, in)
	}}
}

// Public reports whether the page passes the call on or answers it. The others
// are raw uploads.
func (r Route) Public() bool { return r.Scope != "" }

func (r Route) path() string {
	if r.Public() {
		return Prefix + r.Path
	}
	return r.Path
}

// Status is that of a success.
func (r Route) Status() int {
	switch {
	case r.Created:
		return http.StatusCreated
	case r.Empty:
		return http.StatusNoContent
	}
	return http.StatusOK
}

// Everywhere are refusals that any call may answer.
var Everywhere = []Refusal{
	{400, "Several apps are installed and the request names none, or a header or file is malformed."},
	{401, "The request has no session, or its token is invalid."},
	{403, "Not permitted, or the request comes from another site."},
	{404, "The app, update, upload or file does not exist."},
	{405, "This address does not support the method."},
	{421, "This device does not have that host name."},
	{500, "An error on this device."},
	{502, "The update service does not answer."},
}

// Parameters of calls.
type (
	pageQuery struct {
		Page     int                `json:"page,omitempty" jsonschema:"1 to 1000000; default 1"`
		PageSize int                `json:"page_size,omitempty" jsonschema:"1 to 100; default 25"`
		Status   []installer.Status `json:"status,omitempty" jsonschema:"may be repeated"`
	}
	planQuery struct {
		Force bool `json:"force,omitempty" jsonschema:"insist on an older version or one that failed here"`
	}
)

type tusVersion struct {
	Resumable string `json:"Tus-Resumable" jsonschema:"1.0.0"`
}

type tusPiece struct {
	Resumable string `json:"Tus-Resumable" jsonschema:"1.0.0"`
	Offset    int64  `json:"Upload-Offset" jsonschema:"bytes that have arrived"`
}

type tusHeaders struct {
	Resumable string `json:"Tus-Resumable" jsonschema:"1.0.0"`
	Length    int64  `json:"Upload-Length" jsonschema:"bytes of the bundle"`
	Metadata  string `json:"Upload-Metadata,omitempty" jsonschema:"app and its name in base64"`
}

// form is what a form holds.
type form struct {
	File string `json:"file" jsonschema:"the bundle"`
}

var operated = []Refusal{{409, "An update or another command is changing the app, or the call does not apply to this app."}}

var tusOther = Refusal{412, "The version of tus is not supported."}

var uploadRefusals = []Refusal{
	{409, "This version is already on the device, or running."},
	{413, "Too large."},
	{422, "It is not a bundle, or it was refused; check names the check or rule."},
	{423, "Another request writes to this upload."},
	{429, "Too many uploads are unfinished."},
	{503, "It could not be verified now."},
	{507, "Not enough space."},
}

// piece is a part of an upload. Unlike other changes it is not audited.
var piece = func() endpoint {
	e := gives((*app).patchUpload)
	e.InMedia = "application/octet-stream"
	return e
}()

// Routes are the calls of the API, and the raw uploads.
func Routes() []Route {
	return []Route{
		{Method: "GET", Path: "", Scope: Read, Summary: "Updates, newest first", Query: pageQuery{}, endpoint: gives((*app).getPage),
			Refuses: []Refusal{{422, "A parameter is out of its range."}}},
		{Method: "POST", Path: "", Scope: Send, Summary: "Announce a version", Created: true, endpoint: takes((*app).postUpdate),
			Refuses: []Refusal{{409, "This version is already known."}, {422, "The version is not a semantic version, or the request is malformed."}}},
		{Method: "GET", Path: "/check", Scope: Look, Summary: "Check for a newer release", endpoint: gives((*app).getCheck)},
		{Method: "GET", Path: "/{id}", Scope: Read, Summary: "One update", endpoint: gives((*app).getUpdate)},
		{Method: "POST", Path: "/{id}/apply", Scope: Act, Summary: "Apply it; force needs scope admin", endpoint: takes((*app).postApply),
			Refuses: []Refusal{{409, "Its status does not allow it."}, {413, "Too large."}, {422, "Malformed."}, {429, "Too many requests are waiting."}}},
		{Method: "POST", Path: "/{id}/rollback", Scope: Act, Summary: "Roll back to the previous version", endpoint: takes((*app).postRollback),
			Refuses: []Refusal{{409, "It is not running, or there is no previous version."}, {422, "Malformed."}, {429, "Too many requests are waiting."}}},
		{Method: "DELETE", Path: "/{id}", Scope: Manage, Summary: "Delete a record and its bundle", endpoint: gives((*app).deleteUpdate),
			Refuses: []Refusal{{409, "It is being processed."}}},
		{Method: "POST", Path: "/upload", Scope: Send, Summary: "Upload a bundle as a form", Created: true, endpoint: endpoint{In: form{}, InMedia: "multipart/form-data", Out: Done{}},
			Refuses: append([]Refusal{{411, "The length is missing."}}, uploadRefusals...)},

		{Method: "GET", Path: "/{id}/plan", Scope: Read, Summary: "What applying it would do", Query: planQuery{}, endpoint: gives((*app).getPlan),
			Refuses: []Refusal{{409, "It has no bundle."}, {422, "It would be refused; check names the check or rule."}}},
		{Method: "GET", Path: "/apps", Scope: Read, Summary: "Installed apps", endpoint: endpoint{Out: []string{}, whole: (*Daemon).getApps}},
		{Method: "GET", Path: "/state", Scope: Read, Summary: "What is installed and what is happening", endpoint: gives((*app).getState)},
		{Method: "GET", Path: "/events", Scope: Read, Summary: "Progress, as server-sent events", endpoint: endpoint{OutMedia: "text/event-stream", serve: (*app).getEvents},
			Answer:  "First one event \"past\" with an array of all events of the current or last transaction; then an event \"now\" for each new one.",
			Refuses: []Refusal{{503, "Too many clients are watching."}}},
		{Method: "POST", Path: "/apply", Scope: Act, Summary: "Start the app with its current configuration; answers when it is healthy", endpoint: gives((*app).postConfigured), Refuses: operated},
		{Method: "POST", Path: "/start", Scope: Act, Summary: "The same as apply, but does not touch a running file tree", endpoint: gives((*app).postStart), Refuses: operated},
		{Method: "POST", Path: "/stop", Scope: Act, Summary: "Stop the app until it is started or updated", endpoint: gives((*app).postStop), Refuses: operated},
		{Method: "POST", Path: "/restart", Scope: Act, Summary: "Stop and start the app", endpoint: gives((*app).postRestart), Refuses: operated},
		{Method: "GET", Path: "/logs", Scope: Manage, Summary: "The app's last output", Query: logQuery{}, endpoint: endpoint{OutMedia: "text/plain", serve: (*app).getLogs},
			Refuses: append([]Refusal{{422, "A parameter is out of its range."}}, operated...)},
		{Method: "POST", Path: "/backups", Scope: Act, Summary: "Back up the app's data now", Created: true, endpoint: gives((*app).postBackup), Refuses: operated},
		{Method: "POST", Path: "/repair", Scope: Manage, Summary: "Rebuild damaged or missing records", endpoint: endpoint{Out: Done{}, whole: (*Daemon).postRepair},
			Refuses: []Refusal{{409, "Another command is changing an app."}}},
		{Method: "GET", Path: "/backups", Scope: Read, Summary: "Backups, newest first", endpoint: gives((*app).getBackups)},
		{Method: "GET", Path: "/backups/{id}/{file}", Scope: Manage, Summary: "One file of a backup", endpoint: endpoint{OutMedia: "application/octet-stream", serve: (*app).getBackup}},
		{Method: "POST", Path: "/backups/{id}/restore", Scope: Manage, Summary: "Restore a backup", endpoint: takes((*app).postRestore),
			Refuses: []Refusal{{422, "Malformed."}, {429, "Too many requests are waiting."}}},
		{Method: "GET", Path: "/doctor", Scope: Read, Summary: "Check what an update needs", endpoint: gives((*app).getDoctor)},
		{Method: "GET", Path: "/metrics", Scope: Read, Summary: "Metrics in the text format of Prometheus", endpoint: endpoint{OutMedia: "text/plain", whole: (*Daemon).metrics}},
		{Method: "POST", Path: "/download", Scope: Send, Summary: "Download the newest release from the source", Created: true, endpoint: gives((*app).postDownload),
			Refuses: []Refusal{{409, "There is nothing newer, it is already on the device, or a download is running."}, {422, "It was refused; check names the check or rule."}, {503, "It could not be verified now."}, {507, "Not enough space."}}},
		{Method: "PATCH", Path: "/settings", Scope: Manage, Summary: "Change the schedule and the channel", endpoint: endpoint{In: Settings{}, Out: Settings{}, serve: (*app).patchSettings},
			Refuses: []Refusal{{409, "An update or a command is changing the app."}, {422, "A setting is out of its range."}}},
		{Method: "POST", Path: "/files", Scope: Send, Summary: "Start a resumable upload (tus 1.0)", Created: true, Answer: "Location has the address of the upload.", Headers: tusHeaders{},
			Refuses: append([]Refusal{tusOther}, uploadRefusals...)},
		{Method: "HEAD", Path: "/files/{id}", Scope: Send, Summary: "How much of an upload has arrived", Answer: "Upload-Offset has the number of bytes.", Headers: tusVersion{}, Refuses: []Refusal{tusOther}},
		{Method: "PATCH", Path: "/files/{id}", Scope: Send, Summary: "Send a piece of an upload", Empty: true, Answer: "Upload-Offset has the number of bytes that have arrived.", Headers: tusPiece{},
			Also: []Refusal{{200, "The upload is complete; the answer is the record, as JSON."}}, Refuses: append([]Refusal{tusOther}, uploadRefusals...), endpoint: endpoint{In: []byte{}, InMedia: "application/offset+octet-stream"}},
		{Method: "DELETE", Path: "/files/{id}", Scope: Send, Summary: "Cancel an upload", Empty: true, Headers: tusVersion{}, Refuses: []Refusal{tusOther, {423, "Another request writes to this upload."}}},

		{Method: "POST", Path: uploads, Created: true, endpoint: takes((*app).postUpload)},
		{Method: "GET", Path: uploads + "/{id}", endpoint: gives((*app).getUpload)},
		{Method: "PATCH", Path: uploads + "/{id}", endpoint: piece},
		{Method: "POST", Path: uploads + "/{id}/done", Created: true, endpoint: gives((*app).finishUpload)},
		{Method: "DELETE", Path: uploads + "/{id}", endpoint: gives((*app).deleteUpload)},
	}
}
