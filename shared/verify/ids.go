package verify

import "slices"

// ids is a range of ids, both ends inclusive; empty when last < first.
type ids struct{ first, last int64 }

func (r ids) count() int64 { return max(0, r.last-r.first+1) }

func (r ids) overlaps(o ids) bool { return r.first <= o.last && o.first <= r.last }

func (r ids) holds(o ids) bool { return r.first <= o.first && o.last <= r.last }

// without returns what of the ranges is not in cut, and what is. The ranges are in order and apart, as are the results.
func without(ranges []ids, cut ids) (rest, cutOff []ids) {
	for _, r := range ranges {
		if !r.overlaps(cut) {
			rest = append(rest, r)
			continue
		}
		if r.first < cut.first {
			rest = append(rest, ids{r.first, cut.first - 1})
		}
		if r.last > cut.last {
			rest = append(rest, ids{cut.last + 1, r.last})
		}
		cutOff = append(cutOff, ids{max(r.first, cut.first), min(r.last, cut.last)})
	}
	return rest, cutOff
}

// idSet is a set of ids, kept as ranges; those added one after the other become one.
type idSet []ids

func (s *idSet) add(r ids) {
	if n := len(*s); n > 0 {
		if last := &(*s)[n-1]; last.first <= r.first && r.first <= last.last+1 {
			last.last = max(last.last, r.last)
			return
		}
	}
	*s = append(*s, r)
}

func (s idSet) holds(r ids) bool {
	return slices.ContainsFunc(s, func(o ids) bool { return o.holds(r) })
}

// forget drops what lies below id.
func (s *idSet) forget(id int64) {
	*s = slices.DeleteFunc(*s, func(r ids) bool { return r.last < id })
}
