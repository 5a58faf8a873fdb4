package verify

import (
	"context"
	"fmt"

	"tapedeck/shared/market"
)

// ledger verifies the entries of the ledger themselves. Whether a hole has one, the walk over the blocks verifies.
func (r *verifier) ledger(ctx context.Context, t *task) error {
	start, end := r.opts.Start, r.end()
	return inWindows(start, end, func(from, to market.Time) (bool, error) {
		gaps, err := r.reader.Gaps(ctx, market.GapQuery{
			Market: t.series.Market, Stream: t.series.Stream, From: from, To: to, Limit: maxGaps,
		})
		if err != nil || len(gaps) == maxGaps {
			return err == nil, err
		}
		for i := range gaps {
			g := &gaps[i]
			if g.Start < from && from != start || g.Start >= to && to != end { // verified with another window
				continue
			}
			t.stream.Entries++
			if err := r.entry(ctx, t, g); err != nil {
				return false, err
			}
		}
		return false, nil
	})
}

// entry verifies one entry.
func (r *verifier) entry(ctx context.Context, t *task, g *market.Gap) error {
	named := ids{g.FirstID, g.LastID}
	place := func(detail string) Place { return Place{named.first, named.last, g.Start, detail} }
	if wrong := malformed(g); wrong != "" {
		t.stream.problem(LedgerEntry, place(wrong))
		return nil
	}
	if g.RepairedAt == 0 {
		t.stream.note(EntryOpen, place(string(g.Cause)))
	}
	if named.count() == 0 || g.Cause.IsDoubt() {
		return nil
	}
	missing, err := r.missing(ctx, t.series, named, g.Start, max(g.Start, g.End))
	switch {
	case err != nil:
		return err
	case g.Repair == market.RepairBackfilled && len(missing) > 0:
		t.stream.problem(BackfillIncomplete, place(fmt.Sprintf("ids %d to %d are missing", missing[0].first, missing[0].last)))
	case g.Repair != market.RepairBackfilled && len(missing) == 0:
		t.stream.note(EntryHeld, place(string(g.Cause)))
	}
	return nil
}

// malformed says what in an entry contradicts itself, or "".
func malformed(g *market.Gap) string {
	_, err := market.ParseCause(string(g.Cause))
	switch {
	case err != nil:
		return err.Error()
	case g.FirstID < 0 || g.LastID < g.FirstID-1:
		return "its ids are out of order"
	case (g.RepairedAt != 0) != (g.Repair != ""):
		return "it says when it was repaired and not how, or how and not when"
	case g.RepairedAt != 0 && g.End == 0:
		return "it was repaired and has no end"
	}
	switch g.Repair {
	case "", market.RepairSnapshot, market.RepairResumed, market.RepairBackfilled:
		return ""
	}
	return fmt.Sprintf("unknown repair %q", g.Repair)
}

// missing returns which of the ids no span near a stretch of event time holds.
func (r *verifier) missing(ctx context.Context, series market.Series, named ids, a, b market.Time) ([]ids, error) {
	spans, err := r.reader.Spans(ctx, series, max(0, a.Add(-nearby)), b.Add(nearby), maxSpans)
	if err != nil {
		return nil, err
	}
	left := []ids{named}
	for i := range spans {
		left, _ = without(left, ids{spans[i].PrevID + 1, spans[i].LastID})
	}
	return left, nil
}
