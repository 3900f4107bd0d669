package daemon

import (
	"sync"
	"time"

	"github.com/valise-ota/valise/bundle/plain"
	"github.com/valise-ota/valise/installer"
)

// Event is something to know for those who watch an app.
type Event struct {
	Type   string           `json:"type"` // begin, status, step, progress, queued, waiting, upload, download, deleted
	Record string           `json:"record,omitempty"`
	Status installer.Status `json:"status,omitempty"`
	Step   string           `json:"step,omitempty"`
	Detail string           `json:"detail,omitempty"`
	Done   int64            `json:"done,omitempty"`
	Total  int64            `json:"total,omitempty"`
	Ended  bool             `json:"ended,omitempty"`
	Error  string           `json:"error,omitempty"`
	Reason string           `json:"reason,omitempty"` // the kind of the error, or of what an update waits for
	Time   time.Time        `json:"time"`
}

const (
	maxReplay       = 200 // events of one transaction that a late watcher still gets
	maxWatchers     = 1000
	maxWatchersEach = 250 // of one user or token
)

// hub hands events to those who watch. Who comes late, or comes back after the
// page was loaded again, gets all of the transaction that is running or was last.
type hub struct {
	now      func() time.Time
	mu       sync.Mutex
	replay   []Event
	moved    Event                 // the last about bytes that move
	watchers map[chan Event]string // who
	each     map[string]int        // how many are whose
}

func newHub(now func() time.Time) *hub {
	return &hub{now: now, watchers: map[chan Event]string{}, each: map[string]int{}}
}

func (h *hub) touch() { h.mu.Lock(); defer h.mu.Unlock() }

// begin forgets the transaction before.
func (h *hub) begin(record string) {
	h.mu.Lock()
	h.replay = h.replay[:0]
	h.mu.Unlock()
	h.send(Event{Type: "begin", Record: record})
}

func (h *hub) send(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	e.Time, e.Detail, e.Error = h.now(), plain.Text(e.Detail), plain.Text(e.Error)
	if e.Done > 0 && !e.Ended {
		// Ten a second are enough for an eye.
		if h.moved.Type == e.Type && h.moved.Step == e.Step && e.Time.Sub(h.moved.Time) < 100*time.Millisecond && e.Done != e.Total {
			return
		}
		h.moved = e
	}
	switch n := len(h.replay); {
	case e.Type == "upload" || e.Type == "download": // not part of a transaction
	case n > 0 && e.Type == "progress" && h.replay[n-1].Type == "progress" && h.replay[n-1].Step == e.Step:
		h.replay[n-1] = e
	case n < maxReplay:
		h.replay = append(h.replay, e)
	}
	for w := range h.watchers {
		select {
		case w <- e:
		default: // too slow: it comes back and gets all of it again
			h.drop(w)
		}
	}
}

// watch returns what happened already and a channel with what happens next,
// which is closed when the watcher is too slow, or when there are too many and
// its owner has the most. ok is false when there are too many and by has the
// most, or by has as many as one may have.
func (h *hub) watch(by string) (past []Event, next chan Event, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.each[by] >= maxWatchersEach {
		return nil, nil, false
	}
	if len(h.watchers) >= maxWatchers {
		most := by
		for who, n := range h.each {
			if n > h.each[most] {
				most = who
			}
		}
		if most == by {
			return nil, nil, false
		}
		for w, who := range h.watchers {
			if who == most {
				h.drop(w)
				break
			}
		}
	}
	next = make(chan Event, 64)
	h.watchers[next] = by
	h.each[by]++
	return append(past, h.replay...), next, true
}

func (h *hub) drop(w chan Event) {
	by := h.watchers[w]
	if h.each[by]--; h.each[by] == 0 {
		delete(h.each, by)
	}
	delete(h.watchers, w)
	close(w)
}

func (h *hub) leave(w chan Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, there := h.watchers[w]; there {
		h.drop(w)
	}
}
