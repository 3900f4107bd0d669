package daemon

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Settings are what an administrator can change by the page, in the device's own
// configuration of the app. Everything else there, whose releases are accepted
// above all, is changed on the device alone.
type Settings struct {
	// Check is how often the source is asked, 0 for never; Auto is what happens
	// with a newer release; Window, "02:00-04:30" in local time, is when.
	Check  Interval `yaml:"check,omitempty" json:"check_every" jsonschema:"how often to check the source: 6h, 90m; empty for never"`
	Auto   Mode     `yaml:"auto,omitempty" json:"auto" jsonschema:"what happens with a newer release"`
	Window string   `yaml:"window,omitempty" json:"window" jsonschema:"when, HH:MM-HH:MM in local time; empty for always"`
	// Channel admits pre-releases of that name. It is part of the source.
	Channel string `yaml:"-" json:"channel" jsonschema:"first word of pre-releases to accept; empty for none"`
}

// Interval is a time between two checks, as people write it: 90m, 6h.
type Interval time.Duration

// MarshalText writes 6h for six hours, and nothing for 0.
func (i Interval) MarshalText() ([]byte, error) {
	if i == 0 {
		return nil, nil
	}
	s := time.Duration(i).String()
	for _, zero := range []string{"m0s", "h0m"} {
		if strings.HasSuffix(s, zero) {
			s = s[:len(s)-2]
		}
	}
	return []byte(s), nil
}

// UnmarshalText reads what MarshalText writes, and 0.
func (i *Interval) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*i = 0
		return nil
	}
	d, err := time.ParseDuration(string(b))
	if err != nil {
		return fmt.Errorf("%.40q is not a time such as 6h or 90m", b)
	}
	*i = Interval(d)
	return nil
}

func (i Interval) String() string {
	b, _ := i.MarshalText()
	return string(b)
}

const (
	minCheck = Interval(time.Minute)
	maxCheck = Interval(365 * 24 * time.Hour)
)

var channelPattern = lazyregexp.New(`^[0-9A-Za-z-]{0,64}$`)

// Validate says what is wrong with settings.
func (s Settings) Validate() error {
	switch {
	case s.Check != 0 && (s.Check < minCheck || s.Check > maxCheck):
		return fmt.Errorf("check is %s, want %s to %s, or 0 for never", s.Check, minCheck, maxCheck)
	case !s.Auto.valid():
		return fmt.Errorf("auto is %.40q, want off, stage or apply", s.Auto)
	case !channelPattern.MatchString(s.Channel):
		return fmt.Errorf("channel is %.80q, want the first word of pre-releases, such as beta", s.Channel)
	}
	_, err := parseWindow(s.Window)
	return err
}

// settings are those that count now.
func (a *app) settings() Settings {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.config.Settings
}

// patchSettings changes the members that the request has.
func (a *app) patchSettings(_ http.ResponseWriter, r *http.Request) (any, error) {
	a.changing.Lock()
	defer a.changing.Unlock()
	s := a.settings()
	if err := body(r, &s); err != nil {
		return nil, err
	}
	if err := s.Validate(); err != nil {
		return nil, because("settings", http.StatusUnprocessableEntity, "%v", err)
	}
	if s.Channel != "" && a.config.Source == "" {
		return nil, because("no-source", http.StatusUnprocessableEntity, "channel is %q, and this device has no source of releases: set one in its configuration first", s.Channel)
	}
	if a.agent != nil && s.Auto != "" && s.Auto != Off {
		return nil, because("settings", http.StatusUnprocessableEntity, "auto is %s, and a fleet server decides for this app: leave it off", s.Auto)
	}
	err := a.Device.Configure(r.Context(), a.name, s)
	if errors.Is(err, ErrBusy) {
		return nil, because("busy", http.StatusConflict, "an update or another command is changing this app: try again when it has ended")
	}
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.config.Settings, a.latest = s, nil
	a.mu.Unlock()
	select {
	case a.rescheduled <- struct{}{}:
	default: // it has not looked since the last change
	}
	return s, nil
}
