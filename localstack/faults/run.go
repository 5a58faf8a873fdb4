package faults

import (
	"context"
	"iter"
	"time"
)

// Run calls inject for each fault of a plan when it is due, counted from the call of Run on. It returns when the plan is
// over or ctx has ended.
func Run(ctx context.Context, plan iter.Seq[Fault], inject func(Fault)) {
	start := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for f := range plan {
		timer.Reset(time.Until(start.Add(f.At)))
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if ctx.Err() != nil {
			return
		}
		inject(f)
	}
}
