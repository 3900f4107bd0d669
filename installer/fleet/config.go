// Package fleet has a server decide when an app is updated, and to which release: an
// Eclipse hawkBit, or what speaks its Direct Device Integration API.
//
// The server names a version, and that is all that is taken from it. Where its bytes
// come from, who must have signed it, the floor and the channel are the device's own:
// this package fetches nothing and verifies nothing. Addresses in answers are not
// followed.
//
// Who may attack: who owns the server, or the network before it. They can choose among
// the releases that the device would take anyway, and withhold them.
package fleet

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"time"

	"github.com/valise-ota/valise/bundle/lazyregexp"
)

// Config says which server steers an app. The zero value is none.
type Config struct {
	// HawkBit is the address of the server: https, but for this machine's own.
	HawkBit string `yaml:"hawkbit,omitempty"`
	Tenant  string `yaml:"tenant,omitempty"` // DEFAULT when it is empty
	// ID is what the server calls this app on this device: a name, not a secret.
	ID string `yaml:"id,omitempty"`
	// TokenFile holds the token of this target, GatewayTokenFile that of all. With a
	// certificate, the proxy before the server knows the device.
	TokenFile         string `yaml:"token_file,omitempty"`
	GatewayTokenFile  string `yaml:"gateway_token_file,omitempty"`
	ClientCertificate string `yaml:"client_certificate,omitempty"`
	ClientKey         string `yaml:"client_key,omitempty"`
	// Allow is what the server may ask for: update, rollback; update when it is empty.
	Allow []string `yaml:"allow,omitempty"`
	// Poll bounds how often the server is asked, whatever it wants.
	Poll Poll `yaml:"poll,omitempty"`
	// Attributes are told to the server, beside app, version and platform.
	Attributes map[string]string `yaml:"attributes,omitempty"`
}

// Poll bounds the pause between two requests for work.
type Poll struct {
	Min time.Duration `yaml:"min,omitempty"` // 30 s when it is 0
	Max time.Duration `yaml:"max,omitempty"` // 24 h when it is 0
}

const (
	leastPoll       = 5 * time.Second
	defaultMinPoll  = 30 * time.Second
	defaultMaxPoll  = 24 * time.Hour
	mostPoll        = 365 * 24 * time.Hour
	maxAttributes   = 50
	maxAttributeLen = 128 // characters of a key or a value, as hawkBit has it
)

// IsZero reports whether no server is configured.
func (c Config) IsZero() bool {
	return c.HawkBit == "" && c.Tenant == "" && c.ID == "" && c.TokenFile == "" && c.GatewayTokenFile == "" && c.ClientCertificate == "" && c.ClientKey == "" && len(c.Allow) == 0 && c.Poll == Poll{} && len(c.Attributes) == 0
}

// segment is a tenant or a name, as one part of an address.
var segment = lazyregexp.New(`^[0-9A-Za-z_][0-9A-Za-z_.:-]{0,254}$`)

// Validate says what is wrong with a configuration.
func (c Config) Validate() error {
	u, err := url.Parse(c.HawkBit)
	ways := 0
	for _, s := range []string{c.TokenFile, c.GatewayTokenFile, c.ClientCertificate} {
		if s != "" {
			ways++
		}
	}
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Scheme != "https" && u.Scheme != "http":
		return fmt.Errorf("fleet: hawkbit is %.200q, want an address like https://HOST/", c.HawkBit)
	case u.Scheme == "http" && !loopback(u.Hostname()):
		return fmt.Errorf("fleet: hawkbit is %.200q: what %s wants would come unencrypted; use https", c.HawkBit, u.Host)
	case c.Tenant != "" && !segment.MatchString(c.Tenant):
		return fmt.Errorf("fleet: tenant is %.80q, want letters, digits, - and _", c.Tenant)
	case c.ID != "" && !segment.MatchString(c.ID):
		return fmt.Errorf("fleet: id is %.80q, want letters, digits and . : _ -", c.ID)
	case ways > 1:
		return errors.New("fleet: set one of token_file, gateway_token_file and client_certificate")
	case (c.ClientCertificate == "") != (c.ClientKey == ""):
		return errors.New("fleet: client_certificate goes with client_key")
	case c.ClientCertificate != "" && u.Scheme != "https":
		return errors.New("fleet: client_certificate needs an address that begins with https://")
	case c.Poll.Min < 0 || c.Poll.Max < 0 || c.Poll.Max > mostPoll || c.Poll.Min > 0 && c.Poll.Min < leastPoll:
		return fmt.Errorf("fleet: poll is %s to %s, want %s to %s", c.Poll.Min, c.Poll.Max, leastPoll, mostPoll)
	case c.pollMin() > c.pollMax():
		return fmt.Errorf("fleet: poll.min is %s, more than poll.max, %s", c.pollMin(), c.pollMax())
	case len(c.Attributes) > maxAttributes:
		return fmt.Errorf("fleet: %d attributes, want %d at most", len(c.Attributes), maxAttributes)
	}
	for _, a := range c.Allow {
		if a != Update && a != Rollback {
			return fmt.Errorf("fleet: allow has %.40q, want update or rollback", a)
		}
	}
	for k, v := range c.Attributes {
		if k == "" || len(k) > maxAttributeLen || len(v) > maxAttributeLen {
			return fmt.Errorf("fleet: attribute %.40q has more than %d characters, or no name", k, maxAttributeLen)
		}
	}
	return nil
}

// What a server may ask for.
const (
	Update   = "update"
	Rollback = "rollback"
)

func (c Config) allows(what string) bool {
	return slices.Contains(c.Allow, what) || len(c.Allow) == 0 && what == Update
}

func (c Config) pollMin() time.Duration {
	if c.Poll.Min == 0 {
		return min(defaultMinPoll, c.pollMax())
	}
	return c.Poll.Min
}

func (c Config) pollMax() time.Duration {
	if c.Poll.Max == 0 {
		return max(defaultMaxPoll, c.Poll.Min)
	}
	return c.Poll.Max
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}
