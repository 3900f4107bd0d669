package daemon

import (
	"time"

	"github.com/valise-ota/valise/installer"
	"github.com/valise-ota/valise/installer/fleet"
)

// Types of the OTA API, as JSON. The first eight calls, their fields, states and
// status codes are those of apps that had an updater of their own before; the
// others are ours. Errors are problem details (RFC 9457), whose "detail" is also
// what those apps show.

// ActorHeader names who asks, for the records. Who may use the socket is
// believed.
const ActorHeader = "X-Valise-Actor"

// Update is a record as the API shows it. What is not known is null.
type Update struct {
	PublicID        string           `json:"public_id"`
	Version         string           `json:"version"`
	Changelog       *string          `json:"changelog"`
	FileHashSHA256  *string          `json:"file_hash_sha256"`
	FileSizeBytes   *int64           `json:"file_size_bytes"`
	Status          installer.Status `json:"status"`
	ErrorMessage    *string          `json:"error_message"`
	Reason          *string          `json:"reason"` // the kind of that error
	CreatedOn       *time.Time       `json:"created_on"`
	StartedOn       *time.Time       `json:"started_on"`
	CompletedOn     *time.Time       `json:"completed_on"`
	UserPublicID    string           `json:"user_public_id"` // who asked for it
	HasFirmwareFile bool             `json:"has_firmware_file"`
	FileName        *string          `json:"file_name"` // what the sender called it
	Verified        bool             `json:"verified"`  // that file passed every check when it came
	Queued          bool             `json:"queued"`    // it is about to be applied
	Asked           bool             `json:"asked"`     // a fleet server wants consent: apply gives it, delete refuses it

	Action      installer.Action `json:"action"`
	FromVersion *string          `json:"from_version"`
	Signer      *string          `json:"signer"`
	Attention   *string          `json:"attention"`
	Path        *installer.Path  `json:"path"` // which of several updates it is
	Log         *string          `json:"log"`  // what failed services printed last
	Steps       []installer.Step `json:"steps"`
}

func known[T comparable](v T) *T {
	if v == *new(T) {
		return nil
	}
	return &v
}

func (a *app) toUpdate(r installer.Record) Update {
	u := Update{
		PublicID: r.ID, Version: r.To.Version, Changelog: known(r.Changelog), Status: r.Status, ErrorMessage: known(r.Error), Reason: known(r.Reason),
		CreatedOn: known(r.Created), StartedOn: known(r.Started), CompletedOn: known(r.Ended), UserPublicID: r.By,
		Action: r.Action, Signer: known(r.To.Signer), Attention: known(r.Attention), Log: known(r.Log), Path: r.Path, Steps: r.Steps,
	}
	u.Asked = a.agent != nil && a.agent.Asks(r.ID)
	a.mu.Lock()
	u.Queued = r.Status == installer.Pending && a.queued[r.ID] > 0
	a.mu.Unlock()
	if u.Steps == nil {
		u.Steps = []installer.Step{}
	}
	if r.Bundle != nil {
		u.FileName = known(r.Bundle.Name)
		u.Verified = r.Bundle.Verified
		u.FileHashSHA256, u.FileSizeBytes, u.HasFirmwareFile = known(r.Bundle.Digest), known(r.Bundle.Size), r.Bundle.File != ""
	}
	if r.From != nil {
		u.FromVersion = known(r.From.Version)
	}
	return u
}

// Page is one page of the history.
type Page struct {
	Page     int      `json:"page"`
	PageSize int      `json:"page_size"`
	Total    int      `json:"total"`
	Data     []Update `json:"data"`
}

// Check is the answer to "is there anything newer".
type Check struct {
	CurrentVersion      string     `json:"current_version"`
	LatestVersion       *string    `json:"latest_version"`
	UpdateAvailable     bool       `json:"update_available"`
	GitHubLatestVersion *string    `json:"github_latest_version"`
	GitHubDownloadURL   *string    `json:"github_download_url"`
	GitHubReleaseURL    *string    `json:"github_release_url"`
	GitHubError         *string    `json:"github_error"`
	GitHubPublishedOn   *time.Time `json:"github_published_on"`
	GitHubNotes         *string    `json:"github_notes"` // Markdown, not trusted
	GitHubSizeBytes     *int64     `json:"github_size_bytes"`

	Way     []string `json:"way"`     // versions to be installed, one after the other; the last is the newest
	Blocked *string  `json:"blocked"` // why a newer one cannot be reached

	BlockedReason *string `json:"blocked_reason"` // the kind of that: requirement, held, halted
}

// Done is the answer to a call that changes something.
type Done struct {
	Status   string `json:"status"` // "success"
	Message  string `json:"message"`
	PublicID string `json:"public_id,omitempty"`
}

// Problem is an error.
type Problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	Check  string `json:"check,omitempty"`  // which check or rule refused a bundle
	Reason string `json:"reason,omitempty"` // the kind of the error
}

// State is what is installed and what happens.
type State struct {
	App        string             `json:"app"`
	Current    *installer.Release `json:"current"`
	Previous   *installer.Release `json:"previous"`
	Bad        []string           `json:"failed_versions"`
	OnRollback string             `json:"on_rollback"` // what a rollback does to the data: never, ask, always
	Running    *Update            `json:"running"`     // a record that is neither waiting nor at its end
	Queued     int                `json:"queued"`
	FreeBytes  int64              `json:"free_bytes"`
	Signers    []string           `json:"signers"`
	Source     string             `json:"source"`
	Drop       string             `json:"drop"`
	DropMode   Mode               `json:"drop_mode"`
	Upload     Mode               `json:"upload"` // what happens with an uploaded bundle
	Settings
	MaxUpload int64      `json:"max_upload_bytes"`
	CheckedOn *time.Time `json:"checked_on"`
	// Fleet is what the server wants that steers the app; null without one.
	Fleet *fleet.Seen `json:"fleet"`
}

// Upload is a file that is on its way.
type Upload struct {
	ID     string `json:"id"`
	Size   int64  `json:"size"`
	Offset int64  `json:"offset"`
}

// Announcement is a version that is to come.
type Announcement struct {
	Version   string  `json:"version"`
	Changelog *string `json:"changelog,omitempty"`
}

// Application is how an update is to be applied.
type Application struct {
	Force       bool    `json:"force,omitempty" jsonschema:"insist on an older version or one that failed here; needs scope admin"`
	DownloadURL *string `json:"download_url,omitempty" jsonschema:"refused: this device downloads from its source only"`
	Hash        *string `json:"file_hash_sha256,omitempty"`
}

// Data is what a rollback does to the data.
type Data struct {
	Data string `json:"data,omitempty" jsonschema:"restore or keep; empty: as the release says"`
}

// Restoration is how saved data are restored.
type Restoration struct {
	Discard bool `json:"discard,omitempty" jsonschema:"do not back up the current data first: for data that can no longer be read"`
}

// NewUpload is a bundle that is to come.
type NewUpload struct {
	Size int64  `json:"size" jsonschema:"bytes"`
	Name string `json:"name,omitempty" jsonschema:"of the file, for people"`
	// Waits keeps it until it is applied by a call, whatever the device does with uploads.
	Waits bool `json:"waits,omitempty"`
}

// Backup is data that was saved.
type Backup struct {
	ID      string       `json:"id"`
	Created time.Time    `json:"created_on"`
	Version string       `json:"version"` // that ran
	Size    int64        `json:"size_bytes"`
	Files   []BackupFile `json:"files"`
}

// BackupFile is one file of a backup.
type BackupFile struct {
	Name string `json:"name"`
	Size int64  `json:"size_bytes"`
	What string `json:"what"`
	// The same for those who say it in another language.
	Format string   `json:"format" jsonschema:"what without its args"`
	Args   []string `json:"args,omitempty"`
}

// Finding is one thing that was looked at.
type Finding struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Text   string `json:"text"`
	Remedy string `json:"remedy,omitempty"`
	// The same for those who say it in another language.
	Format     string   `json:"format" jsonschema:"text without its args"`
	Args       []string `json:"args,omitempty"`
	Advice     string   `json:"advice,omitempty" jsonschema:"names the remedy"`
	AdviceArgs []string `json:"advice_args,omitempty"`
}
