package ota

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/argon2"

	"github.com/valise-ota/valise/bundle/lazyregexp"
	"github.com/valise-ota/valise/installer/daemon"
)

// Scope is something that a user may do.
type Scope = daemon.Scope

const (
	read   = daemon.Read
	check  = daemon.Look
	upload = daemon.Send
	apply  = daemon.Act
	admin  = daemon.Manage
)

// Scopes are all of them.
var Scopes = []Scope{read, check, upload, apply, admin}

// Role is a set of scopes for people.
type Role string

// The roles.
const (
	Viewer   Role = "viewer"
	Operator Role = "operator"
	Admin    Role = "admin"
)

var roleScopes = map[Role][]Scope{
	Viewer:   {read},
	Operator: {read, check, upload, apply},
	Admin:    {read, check, upload, apply, admin},
}

// User may log in.
type User struct {
	Name string `json:"name"`
	Role Role   `json:"role"`
	Hash string `json:"hash"` // argon2id, PHC string
}

// Token is for programs.
type Token struct {
	Name    string    `json:"name"`
	SHA256  string    `json:"sha256"` // hex, of the token: it is random, so one pass is enough
	Scopes  []Scope   `json:"scopes"`
	Expires time.Time `json:"expires"`
}

// List is the users file.
type List struct {
	Users  []User  `json:"users"`
	Tokens []Token `json:"tokens,omitempty"`
}

var namePattern = lazyregexp.New(`^[0-9A-Za-z][0-9A-Za-z._@-]{0,63}$`)

// Cost of a password hash: 19 MiB and two passes, the second profile of the OWASP
// recommendation. A device has 64 MiB for all of us.
const (
	argonMemory = 19 << 10 // KiB
	argonPasses = 2
	minPassword = 10 // characters
)

// NewPassword is one that can be typed from paper: 100 bits.
func NewPassword() string {
	t := strings.ToLower(rand.Text()[:20])
	return t[:5] + "-" + t[5:10] + "-" + t[10:15] + "-" + t[15:]
}

// SetUser adds a user or gives one another password and role.
func (l *List) SetUser(name string, role Role, password string) error {
	if !namePattern.MatchString(name) {
		return fmt.Errorf("user name is %q, want 1 to 64 of 0-9 A-Z a-z . _ @ -", name)
	}
	if _, ok := roleScopes[role]; !ok {
		return fmt.Errorf("role is %q, want viewer, operator or admin", role)
	}
	if len([]rune(password)) < minPassword {
		return fmt.Errorf("the password has %d characters, want %d or more", len([]rune(password)), minPassword)
	}
	salt := make([]byte, 16)
	rand.Read(salt)
	u := User{name, role, hashPassword(password, salt)}
	if i := slices.IndexFunc(l.Users, func(u User) bool { return u.Name == name }); i >= 0 {
		l.Users[i] = u
	} else {
		l.Users = append(l.Users, u)
	}
	return nil
}

// NewToken adds a token and returns it. It is not kept in clear.
func (l *List) NewToken(name string, scopes []Scope, expires time.Time) (string, error) {
	if !namePattern.MatchString(name) || slices.ContainsFunc(l.Tokens, func(t Token) bool { return t.Name == name }) {
		return "", fmt.Errorf("token name is %q, want a new one of 1 to 64 of 0-9 A-Z a-z . _ @ -", name)
	}
	for _, s := range scopes {
		if !slices.Contains(Scopes, s) {
			return "", fmt.Errorf("scope is %q, want one of %v", s, Scopes)
		}
	}
	if len(scopes) == 0 {
		return "", errors.New("a token needs a scope")
	}
	token := "valise_" + rand.Text()
	l.Tokens = append(l.Tokens, Token{name, tokenHash(token), scopes, expires})
	return token, nil
}

// ParseList reads a users file.
func ParseList(b []byte) (l List, err error) {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&l); err != nil {
		return l, fmt.Errorf("read users: %w", err)
	}
	return l, nil
}

func tokenHash(token string) string {
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

func hashPassword(password string, salt []byte) string {
	key := argon2.IDKey([]byte(password), salt, argonPasses, argonMemory, 1, 32)
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonPasses, b64(salt), b64(key))
}

// hashing keeps the memory of password hashes bounded: one is made at a time.
var hashing = make(chan struct{}, 1)

const maxWaiting = 8 // for a hash, in one queue

var errBusy = errors.New("too many log in at this moment")

// queue are those who wait for a hash.
type queue chan struct{}

// turn waits until a hash may be made, unless too many wait already or ctx ends.
func (q queue) turn(ctx context.Context) (done func(), err error) {
	select {
	case q <- struct{}{}:
		defer func() { <-q }()
	default:
		return nil, errBusy
	}
	select {
	case hashing <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if err := ctx.Err(); err != nil {
		<-hashing
		return nil, err
	}
	return func() { <-hashing }, nil
}

func checkPassword(hash, password string) bool {
	var version, memory, passes, threads uint32
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false
	}
	if _, err := fmt.Sscanf(parts[2], "v=%d", &version); err != nil || version != argon2.Version {
		return false
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &memory, &passes, &threads); err != nil || memory > 1<<20 || passes < 1 || passes > 100 || threads < 1 || threads > 255 {
		return false
	}
	salt, err1 := base64.RawStdEncoding.DecodeString(parts[4])
	want, err2 := base64.RawStdEncoding.DecodeString(parts[5])
	if err1 != nil || err2 != nil || len(want) < 16 {
		return false
	}
	got := argon2.IDKey([]byte(password), salt, passes, memory, uint8(threads), uint32(len(want)))
	return subtle.ConstantTimeCompare(got, want) == 1
}

// nobody is checked when a name is unknown, so that the time says nothing.
// It is made when it is first needed: no other command waits for it.
var nobody = sync.OnceValue(func() string { return hashPassword("nobody", make([]byte, 16)) })

// lists reads the users file anew when it changed.
type lists struct {
	path string

	mu   sync.Mutex
	mod  time.Time
	size int64
	list List
}

func (l *lists) get() (List, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	info, err := os.Stat(l.path)
	if err != nil {
		return List{}, fmt.Errorf("read users: %w", err)
	}
	if info.ModTime().Equal(l.mod) && info.Size() == l.size {
		return l.list, nil
	}
	b, err := os.ReadFile(l.path)
	if err != nil {
		return List{}, fmt.Errorf("read users: %w", err)
	}
	list, err := ParseList(b)
	if err == nil {
		l.list, l.mod, l.size = list, info.ModTime(), info.Size()
	}
	return list, err
}

// login returns the user of that name and password.
func (l *lists) login(ctx context.Context, q queue, name, password string) (*User, error) {
	list, err := l.get()
	if err != nil {
		return nil, err
	}
	done, err := q.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	hash := nobody()
	i := slices.IndexFunc(list.Users, func(u User) bool { return u.Name == name })
	if i >= 0 {
		hash = list.Users[i].Hash
	}
	if !checkPassword(hash, password) || i < 0 {
		return nil, nil
	}
	return &list.Users[i], nil
}

// token returns the token that was given, unless it is too old.
func (l *lists) token(given string, now time.Time) (*Token, error) {
	list, err := l.get()
	if err != nil {
		return nil, err
	}
	hash := tokenHash(given)
	for _, t := range list.Tokens {
		if subtle.ConstantTimeCompare([]byte(t.SHA256), []byte(hash)) == 1 && (t.Expires.IsZero() || now.Before(t.Expires)) {
			return &t, nil
		}
	}
	return nil, nil
}
