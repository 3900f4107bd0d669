package ota

import (
	"net"
	"net/netip"
	"slices"
	"sync"
)

const (
	maxConnections     = 1024 // of the page; each costs some 50 KB
	maxConnectionsEach = 256  // of one address
)

// Limit is l with a limit on how many connections there are, in all and of one
// address, but for those of this host and of trusted proxies: behind them are
// many. One too many is closed.
func (s *Server) Limit(l net.Listener) net.Listener {
	free := append(slices.Clone(s.proxies), netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128"))
	return &limitedListener{Listener: l, free: free, each: map[string]int{}}
}

type limitedListener struct {
	net.Listener
	free []netip.Prefix

	mu   sync.Mutex
	all  int
	each map[string]int
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		key := l.key(c.RemoteAddr())
		if l.take(key) {
			return &limitedConn{c, sync.OnceFunc(func() { l.give(key) })}, nil
		}
		c.Close()
	}
}

// key is whose a connection is; empty where there is no limit for one.
func (l *limitedListener) key(remote net.Addr) string {
	a, err := netip.ParseAddrPort(remote.String())
	if err != nil || slices.ContainsFunc(l.free, func(p netip.Prefix) bool { return p.Contains(a.Addr().Unmap()) }) {
		return ""
	}
	return networkOf(a.Addr().Unmap().String())
}

func (l *limitedListener) take(key string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.all >= maxConnections || key != "" && l.each[key] >= maxConnectionsEach {
		return false
	}
	l.all++
	l.each[key]++
	return true
}

func (l *limitedListener) give(key string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all--
	if l.each[key]--; l.each[key] == 0 {
		delete(l.each, key)
	}
}

type limitedConn struct {
	net.Conn
	ended func()
}

func (c *limitedConn) Close() error {
	defer c.ended()
	return c.Conn.Close()
}
