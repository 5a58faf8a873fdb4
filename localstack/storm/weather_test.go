package storm

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"tapedeck/localstack/faults"
	"tapedeck/shared/market"
)

// trouble is something that went wrong, and the causes that the ledger may give for what is missing of that time.
type trouble struct {
	what     string
	from, to time.Time
	causes   []market.Cause
	fault    faults.Fault  // tells which streams it strikes; none = all
	step     time.Duration // of the exchange's clock, while it lasts
}

// weather remembers all troubles, and writes them down as they come.
type weather struct {
	start time.Time
	begun time.Time // since when faults are injected; set before the first one

	mu       sync.Mutex
	troubles []trouble
	injected int       // faults
	calm     time.Time // when all of them are over
	stills   []still
	log      *os.File
}

// still is a time in which the machine did not run this process, and perhaps none: what was planned for then came later,
// and nobody can tell how long anything took.
type still struct{ from, to time.Time }

// keepTime notes the times in which the machine stands still, until ctx ends.
func (w *weather) keepTime(ctx context.Context) {
	const every, odd = 100 * time.Millisecond, 500 * time.Millisecond
	tick := time.NewTicker(every)
	defer tick.Stop()
	for last := time.Now(); ; {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := time.Now()
		if now.Sub(last) > odd {
			w.mu.Lock()
			w.stills = append(w.stills, still{last, now})
			w.noteLocked("the machine stood still for %v", now.Sub(last))
			w.mu.Unlock()
		}
		last = now
	}
}

// stood returns for how much of a time the machine stood still. The caller holds mu, or keepTime has ended.
func (w *weather) stood(from, to time.Time) (d time.Duration) {
	for _, s := range w.stills {
		d += max(0, earlier(s.to, to).Sub(later(s.from, from)))
	}
	return d
}

func newWeather(path string) (*weather, error) {
	log, err := os.Create(path)
	return &weather{start: time.Now(), log: log}, err
}

// note writes a line into the log.
func (w *weather) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.noteLocked(format, args...)
}

func (w *weather) noteLocked(format string, args ...any) {
	fmt.Fprintf(w.log, "%s %8.3f %s\n", time.Now().UTC().Format("15:04:05.000"), time.Since(w.start).Seconds(), fmt.Sprintf(format, args...))
}

func (w *weather) add(t trouble) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.troubles = append(w.troubles, t)
	w.noteLocked("%s, up to %.3f", t.what, t.to.Sub(w.start).Seconds())
}

const (
	// before is how much earlier than a fault an event may have been made that it strikes: what was on its way, or not yet
	// durable when the process was killed. A block is durable within a second of its last event, but for a machine that
	// is busy.
	before = 5 * time.Second
	// aftermath is for how long behind its end a fault of a connection may go on to cost events: the next connection is
	// tried after at most four seconds, and a mute stream must be noticed first.
	aftermath = 20 * time.Second
	// afterglow is the same for faults of single events.
	afterglow = 5 * time.Second
	// heldBack is how late events may come without harm, by docs/reliability.md.
	heldBack = 250 * time.Millisecond
)

// effects says what a fault may do to what is recorded, and for how long behind its end. A kind that is not here must
// cost nothing.
var effects = map[faults.Kind]struct {
	causes []market.Cause
	after  time.Duration
}{
	faults.Cut:              {lostConnection, aftermath},
	faults.Close:            {lostConnection, aftermath},
	faults.HalfOpen:         {lostConnection, aftermath},
	faults.Shutdown:         {lostConnection, aftermath},
	faults.HandshakeRefused: {lostConnection, aftermath},
	faults.HandshakeMute:    {lostConnection, aftermath},
	faults.FrameTorn:        {lostConnection, aftermath},
	faults.FrameHuge:        {brokenFrame, aftermath},

	faults.Stall:   {muteStream, aftermath},
	faults.Delay:   {muteStream, aftermath}, // what comes behind its end overtakes what is delayed
	faults.Reorder: {muteStream, aftermath}, // in a market that then shows nothing for long
	faults.Drop:    {muteStream, afterglow},
	faults.Gap:     {muteStream, afterglow},

	faults.FrameMalformed: {brokenFrame, afterglow},
	faults.FrameTruncated: {brokenFrame, afterglow},
	faults.FrameBinary:    {brokenFrame, afterglow},
	faults.FrameSymbol:    {brokenFrame, afterglow},
	faults.FrameIDs:       {brokenFrame, afterglow},

	faults.Clock: {[]market.Cause{market.CauseClock}, afterglow},
}

var (
	lostConnection = []market.Cause{market.CauseDisconnect, market.CauseStall}
	muteStream     = []market.Cause{market.CauseSequence, market.CauseStall, market.CauseDisconnect}
	brokenFrame    = []market.Cause{market.CauseMalformed, market.CauseSequence, market.CauseDisconnect}
)

// fault is told of each fault that was injected, or could not be.
func (w *weather) fault(f faults.Fault, err error) {
	if err != nil {
		w.note("%v: not injected: %v", f, err)
		return
	}
	now := time.Now()
	w.mu.Lock()
	w.injected++
	w.calm = later(w.calm, now.Add(f.For))
	w.mu.Unlock()
	e := effects[f.Kind]
	t := trouble{what: f.String(), from: now, to: now.Add(f.For + f.By.Abs() + f.Retry + e.after), causes: e.causes, fault: f}
	if f.Kind == faults.Clock {
		t.step = f.By
		t.to = now.Add(f.For + e.after)
	}
	if f.Kind == faults.Delay && f.By <= heldBack || f.Kind == faults.Reorder && f.For > 0 && f.For <= heldBack {
		t.causes = nil
	}
	if f.Kind == faults.FrameTorn || f.Kind == faults.FrameHuge { // all streams of the connection end with it
		t.fault = faults.Fault{}
	}
	if f.For == 0 && f.Count > 0 { // it waits for events, of a market that may be quiet
		t.to = t.to.Add(aftermath)
	}
	w.add(t)
}

// explains reports whether events of a series made at that time may be missing because of cause; "" stands for any.
func (w *weather) explains(cause market.Cause, series market.Series, at time.Time) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.troubles, func(t trouble) bool {
		return (slices.Contains(t.causes, cause) || cause == "" && t.costsEvents()) &&
			t.fault.Strikes(streamOf(series)) && w.covers(&t, at)
	})
}

// covers reports whether something made at that time may have to do with the trouble. The caller holds mu.
func (w *weather) covers(t *trouble, at time.Time) bool {
	return !at.Before(t.from.Add(-before-w.stood(at, t.from))) && !at.After(t.to.Add(w.stood(t.from, at)))
}

// costsEvents reports whether events may be missing because of the trouble, and not only in doubt.
func (t *trouble) costsEvents() bool {
	return slices.ContainsFunc(t.causes, func(c market.Cause) bool { return !c.IsDoubt() })
}

// clockErrors returns by how much the exchange's clock may have been wrong at a time.
func (w *weather) clockErrors(at time.Time) []time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	possible := []time.Duration{0}
	for _, t := range w.troubles {
		if t.step == 0 || !w.covers(&t, at) {
			continue
		}
		for _, p := range slices.Clone(possible) {
			possible = append(possible, p+t.step)
		}
		if len(possible) > 1<<12 {
			break
		}
	}
	return possible
}

// sheltered reports whether something made at a time came when the ingester was well and no fault could touch it.
func (w *weather) sheltered(at time.Time) bool {
	return !at.Before(w.begun) && at.Before(w.begun.Add(sheltered))
}

// around returns the troubles near a time that may cost events of a series, for reports.
func (w *weather) around(series market.Series, at time.Time) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var lines []string
	for _, t := range w.troubles {
		if t.costsEvents() && t.fault.Strikes(streamOf(series)) && w.covers(&t, at) {
			lines = append(lines, fmt.Sprintf("%.3f %s", t.from.Sub(w.start).Seconds(), t.what))
		}
	}
	return strings.Join(lines, "; ")
}
