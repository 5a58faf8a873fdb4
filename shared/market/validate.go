package market

import (
	"fmt"
	"unicode/utf8"
)

// Validate checks every record of b against what a store can keep and a reader can rely on. Stores call it before they
// write anything. The error is of kind KindInvalid and names the first bad record.
func (b *Batch) Validate() error {
	for i := range b.Blocks {
		if err := b.Blocks[i].validate(); err != nil {
			return invalid(err, "block", i, b.Blocks[i].Series, b.Blocks[i].FirstID)
		}
	}
	for i := range b.Keyframes {
		if err := b.Keyframes[i].validate(); err != nil {
			return invalid(err, "keyframe", i, b.Keyframes[i].Market, b.Keyframes[i].UpdateID)
		}
	}
	for i := range b.Spans {
		if err := b.Spans[i].validate(); err != nil {
			return invalid(err, "span", i, b.Spans[i].Series, b.Spans[i].FirstID)
		}
	}
	for i := range b.Gaps {
		if err := b.Gaps[i].validate(); err != nil {
			return invalid(err, "gap", i, b.Gaps[i].Series, b.Gaps[i].FirstID)
		}
	}
	for i := range b.Listings {
		if err := b.Listings[i].validate(); err != nil {
			return invalid(err, "listing", i, b.Listings[i].Market, int64(b.Listings[i].UpdatedAt))
		}
	}
	for i := range b.Statuses {
		if err := b.Statuses[i].validate(); err != nil {
			return invalid(err, "status", i, b.Statuses[i].Recorder, int64(b.Statuses[i].UpdatedAt))
		}
	}
	return nil
}

func invalid(err error, record string, index int, of any, id int64) error {
	return Errorf(KindInvalid, "%s %d (%v, %d): %w", record, index, of, id, err)
}

func (b *Block) validate() error {
	switch err := b.Series.validate(); {
	case err != nil:
		return err
	case b.FirstID < 0 || b.LastID < b.FirstID:
		return fmt.Errorf("ids %d to %d", b.FirstID, b.LastID)
	case b.PrevID < -1 || b.PrevID >= b.LastID:
		return fmt.Errorf("previous id %d of ids %d to %d", b.PrevID, b.FirstID, b.LastID)
	case b.SpanID < 0 || b.SpanID > b.LastID:
		return fmt.Errorf("span %d of ids %d to %d", b.SpanID, b.FirstID, b.LastID)
	case b.Start <= 0 || b.End < b.Start || b.Start.Truncate(BlockWindow) != b.End.Truncate(BlockWindow):
		return fmt.Errorf("times %d to %d are not within one window of %v", b.Start, b.End, BlockWindow)
	case b.Events < 1 || b.Events > MaxBlockEvents:
		return fmt.Errorf("%d events (1 to %d)", b.Events, MaxBlockEvents)
	}
	return validateData(b.Data)
}

func (k *Keyframe) validate() error {
	switch err := k.Market.validate(); {
	case err != nil:
		return err
	case min(k.UpdateID, k.SnapshotID, k.UpdatesApplied, k.FirstUpdateID) < 0:
		return fmt.Errorf("negative id: update %d, snapshot %d, applied %d, first %d",
			k.UpdateID, k.SnapshotID, k.UpdatesApplied, k.FirstUpdateID)
	case k.EventTime <= 0 || k.RecvTime < 0:
		return fmt.Errorf("event time %d, receive time %d", k.EventTime, k.RecvTime)
	}
	return validateData(k.Data)
}

func (s *Span) validate() error {
	switch err := s.Series.validate(); {
	case err != nil:
		return err
	case s.FirstID < 0 || s.LastID < s.FirstID:
		return fmt.Errorf("ids %d to %d", s.FirstID, s.LastID)
	case s.PrevID < -1 || s.PrevID >= s.LastID:
		return fmt.Errorf("previous id %d of ids %d to %d", s.PrevID, s.FirstID, s.LastID)
	case s.Start <= 0 || s.End < s.Start:
		return fmt.Errorf("times %d to %d", s.Start, s.End)
	}
	return nil
}

// A gap's last id may be FirstID-1: a hole was noticed, and no id is known yet to be missing. Its two event times may
// stand in any order, since the exchange's clock may step back across a hole.
func (g *Gap) validate() error {
	if err := g.Series.validate(); err != nil {
		return err
	}
	if _, err := ParseCause(string(g.Cause)); err != nil {
		return err
	}
	switch {
	case g.FirstID < 0 || g.LastID < g.FirstID-1:
		return fmt.Errorf("ids %d to %d", g.FirstID, g.LastID)
	case min(g.Start, g.End, g.RecvStart, g.RecvEnd, g.DetectedAt, g.RepairedAt) < 0:
		return fmt.Errorf("negative time in %+v", *g)
	case g.Repair != "" && g.RepairedAt == 0:
		return fmt.Errorf("repair %q at no time", g.Repair)
	}
	return validateRepair(g.Repair)
}

func validateRepair(r Repair) error {
	switch r {
	case "", RepairSnapshot, RepairResumed, RepairBackfilled:
		return nil
	}
	return fmt.Errorf("unknown repair %q", r)
}

func (l *Listing) validate() error {
	if l.UpdatedAt < 0 {
		return fmt.Errorf("updated at %d", l.UpdatedAt)
	}
	if err := l.Market.validate(); err != nil {
		return err
	}
	return validateText(l.Status)
}

func (s *RecorderStatus) validate() error {
	if s.Recorder == "" || s.UpdatedAt < 0 {
		return fmt.Errorf("recorder %q updated at %d", s.Recorder, s.UpdatedAt)
	}
	for i := range s.Markets {
		if err := s.Markets[i].Market.validate(); err != nil {
			return err
		}
		if err := validateText(string(s.Markets[i].State)); err != nil {
			return err
		}
	}
	return validateText(s.Recorder, s.Version)
}

func (s Series) validate() error {
	if _, err := ParseStream(string(s.Stream)); err != nil {
		return err
	}
	return s.Market.validate()
}

// validate refuses what New would refuse or change.
func (m Market) validate() error {
	switch checked, err := New(m.Exchange, m.Symbol); {
	case err != nil:
		return err
	case checked != m:
		return fmt.Errorf("symbol %q is not as an exchange writes it", m.Symbol)
	}
	return nil
}

// validateText refuses what BSON cannot hold.
func validateText(texts ...string) error {
	for _, s := range texts {
		if !utf8.ValidString(s) {
			return fmt.Errorf("text %q is not UTF-8", s)
		}
	}
	return nil
}

func validateData(data []byte) error {
	if len(data) == 0 || len(data) > MaxBlockBytes {
		return fmt.Errorf("%d bytes of data (1 to %d)", len(data), MaxBlockBytes)
	}
	return nil
}
