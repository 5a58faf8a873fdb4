// Package verify proves what a store holds. It walks the records of markets over a range of time and reports all that
// does not hold:
//
//   - every block and keyframe decodes, and its checksum is right; what a record says beside its data is what the data
//     says: ids, times, number of events, all in one window;
//   - ids are contiguous, merged by id over all blocks as readers do, or the ledger has an entry for what is missing, where
//     readers find it;
//   - copies of one event (two recorders, a recording played twice) are the same event;
//   - spans and blocks agree: no span claims an id that no block holds, no block is outside of every span, and none names
//     a span that could not hold it;
//   - every keyframe is the book that follows from the one before it: all of it where both come from one snapshot of
//     the exchange, as deep as both snapshots reached where they do not, and not at all across a hole;
//   - no book is crossed after an event;
//   - the exchange's clock does not step back from one event to the next by more than a second, which is how far readers
//     look back, unless an entry of the ledger, of either stream, tells of it; shorter steps are noted. In the recordings at hand (30,605
//     trades and 16,476 depth updates) there is none;
//   - entries of the ledger are well-formed, and what they say was fetched again is held.
//
// Memory is bounded whatever the range: blocks are read in pages, keyframes one at a time. Nothing is written.
//
// What it cannot see: records that no reader can reach either (of two keyframes of one market at one instant the one
// with the lesser id), RecvTime of events, and how deep a snapshot reached (Keyframe.VerifiedBid, VerifiedAsk), for
// which a keyframe's word is taken.
package verify
