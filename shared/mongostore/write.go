package mongostore

import (
	"context"
	"errors"
	"slices"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
	"go.mongodb.org/mongo-driver/v2/mongo/readconcern"
	"go.mongodb.org/mongo-driver/v2/mongo/readpref"

	"tapedeck/shared/market"
)

// Bounds of one message to the server, whose own limits are 48,000,000 bytes and 100,000 writes.
const (
	maxMessageWrites = 1000
	maxMessageBytes  = 16 << 20
	documentBytes    = 512 // what a document weighs beside its data, at the most or thereabouts
)

// duplicateKey is the error code of an insert, or of an upsert that found nothing to update, whose _id is there.
const duplicateKey = 11000

// Write implements storetest.Store. It keeps the order of market.Batch.
func (s *Store) Write(ctx context.Context, batch *market.Batch) (err error) {
	defer market.Wrap(&err, "write %d records to MongoDB", batch.Len())
	if err := batch.Validate(); err != nil {
		return err
	}
	if batch.Len() == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.limits.call)
	defer cancel()
	if err := s.EnsureIndexes(ctx); err != nil {
		return err
	}
	explained, settled := splitLedger(batch.Gaps)
	if err := s.writeGaps(ctx, explained); err != nil {
		return err
	}
	if err := insert(ctx, s.blocks, batch.Blocks, newBlockDocument, blockBytes); err != nil {
		return err
	}
	if err := insert(ctx, s.keyframes, batch.Keyframes, newKeyframeDocument, keyframeBytes); err != nil {
		return err
	}
	if err := upsert(ctx, s.spans, batch.Spans, spanUpdate); err != nil {
		return err
	}
	if err := s.writeGaps(ctx, settled); err != nil {
		return err
	}
	if err := upsert(ctx, s.listings, batch.Listings, listingUpdate); err != nil {
		return err
	}
	return upsert(ctx, s.recorders, batch.Statuses, statusUpdate)
}

// splitLedger returns the entries that go before the blocks, which may lie behind the holes of which they tell, and
// those that go after, since they may say that blocks are held. One that follows such an entry, maybe with its key, is
// among both: the last write of a key counts, as a rule, and to write an entry twice changes nothing.
func splitLedger(gaps []market.Gap) (before, after []market.Gap) {
	claims := func(g market.Gap) bool { return g.Repair == market.RepairBackfilled }
	first := slices.IndexFunc(gaps, claims)
	if first < 0 {
		return gaps, nil
	}
	return slices.DeleteFunc(slices.Clone(gaps), claims), gaps[first:]
}

func (s *Store) writeGaps(ctx context.Context, gaps []market.Gap) error {
	steps := make([]gapStep, 0, 3*len(gaps))
	for i := range gaps {
		grow := gapStep{&gaps[i], (*gapStep).growth}
		steps = append(steps, grow, gapStep{&gaps[i], (*gapStep).replacement}, grow) // another writer may come between
	}
	return upsert(ctx, s.gaps, steps, func(step *gapStep) *mongo.UpdateOneModel { return step.model(step) })
}

func blockBytes(b *market.Block) int       { return documentBytes + len(b.Data) }
func keyframeBytes(k *market.Keyframe) int { return documentBytes + len(k.Data) }

// keyed is a document that knows its _id.
type keyed interface{ key() string }

// insert inserts records in their order, but for those whose _id is there already. When it fails, none is stored behind
// one that is not: a block's SpanID claims all ids from the span's first one on.
func insert[R any, D keyed](
	ctx context.Context, to *mongo.Collection, records []R, document func(*R) D, weigh func(*R) int,
) error {
	for len(records) > 0 {
		var documents []D
		for bytes := 0; len(documents) < min(len(records), maxMessageWrites); {
			r := &records[len(documents)]
			if bytes += weigh(r); bytes > maxMessageBytes && len(documents) > 0 {
				break
			}
			documents = append(documents, document(r))
		}
		records = records[len(documents):]
		if err := insertMessage(ctx, to, documents); err != nil {
			return classify(ctx, err)
		}
	}
	return nil
}

// insertMessage inserts the documents of one message. The server stops at the first one that is there already. Mostly
// many are then, written before an answer was lost or by another recorder; so it asks for all of the rest at once.
func insertMessage[D keyed](ctx context.Context, to *mongo.Collection, documents []D) error {
	for {
		_, err := to.InsertMany(ctx, documents) // ordered
		at, ok := duplicateAt(err)
		if !ok {
			return err
		}
		if documents, err = absent(ctx, to, documents[at+1:]); err != nil || len(documents) == 0 {
			return err
		}
	}
}

// absent returns the documents whose _id is not there. One that a majority does not hold yet counts as not there: to
// insert it again waits for that.
func absent[D keyed](ctx context.Context, in *mongo.Collection, documents []D) ([]D, error) {
	if len(documents) == 0 {
		return nil, nil
	}
	keys := make([]string, len(documents))
	for i, d := range documents {
		keys[i] = d.key()
	}
	durable := in.Clone(options.Collection().
		SetReadConcern(readconcern.Majority()).SetReadPreference(readpref.Primary()))
	cursor, err := durable.Find(ctx, bson.D{{Key: "_id", Value: bson.D{{Key: "$in", Value: keys}}}},
		options.Find().SetProjection(bson.D{{Key: "_id", Value: 1}}).SetBatchSize(maxMessageWrites))
	if err != nil {
		return nil, err
	}
	var found []struct {
		ID string `bson:"_id"`
	}
	if err := cursor.All(ctx, &found); err != nil {
		return nil, err
	}
	there := make(map[string]bool, len(found))
	for _, f := range found {
		there[f.ID] = true
	}
	return slices.DeleteFunc(documents, func(d D) bool { return there[d.key()] }), nil
}

// duplicateAt reports whether an ordered bulk write stopped only because the _id of a record was there already, and the
// index of that record.
func duplicateAt(err error) (index int, ok bool) {
	failed, ok := errors.AsType[mongo.BulkWriteException](err)
	if !ok || failed.WriteConcernError != nil || len(failed.WriteErrors) != 1 ||
		failed.WriteErrors[0].Code != duplicateKey {
		return 0, false
	}
	return failed.WriteErrors[0].Index, true
}

// upsert writes records in their order by updates that insert what is not there.
//
// An update with a condition beside its _id (not repaired yet; not newer) finds nothing when the condition fails, and
// its insertion then fails on the _id. It also fails when another writer inserts at the same moment. The second try
// tells: the document is there now, and a condition that fails again does so for good, or what another writer wrote at
// that moment stands, which may just as well have come later.
func upsert[R any](
	ctx context.Context, to *mongo.Collection, records []R, update func(*R) *mongo.UpdateOneModel,
) error {
	for retried := false; len(records) > 0; {
		models := make([]mongo.WriteModel, 0, min(len(records), maxMessageWrites))
		for i := range records[:cap(models)] {
			models = append(models, update(&records[i]))
		}
		done := len(models)
		_, err := to.BulkWrite(ctx, models) // ordered: it stops at the first error
		if err != nil {
			at, ok := duplicateAt(err)
			if !ok {
				return classify(ctx, err)
			}
			if done = at; done > 0 {
				retried = false // the records before it were written, and this is another one
			}
			if retried {
				done++
			}
		}
		retried = err != nil && !retried
		records = records[done:]
	}
	return nil
}

func spanUpdate(s *market.Span) *mongo.UpdateOneModel {
	return mongo.NewUpdateOneModel().SetUpsert(true).
		SetFilter(bson.D{{Key: "_id", Value: seriesIDKey(s.Series, s.FirstID)}}).
		SetUpdate(bson.D{
			{Key: "$setOnInsert", Value: bson.D{
				{Key: "series", Value: s.Series.String()}, {Key: "first", Value: s.FirstID}, {Key: "prev", Value: s.PrevID},
			}},
			{Key: "$min", Value: bson.D{{Key: "start", Value: int64(s.Start)}}},
			{Key: "$max", Value: bson.D{{Key: "last", Value: s.LastID}, {Key: "end", Value: int64(s.End)}}},
		})
}

// gapStep is one of the updates that merge an entry of the ledger with the one that is there, as Gap.Merge says:
// first that grows, unless it vouches for the ids that it names and the new one does not; then it is replaced, if it
// yields, or else left as it is.
type gapStep struct {
	*market.Gap
	model func(*gapStep) *mongo.UpdateOneModel
}

func (g *gapStep) growth() *mongo.UpdateOneModel {
	filter := bson.D{{Key: "_id", Value: gapKey(g.Gap)}}
	if g.Repair != market.RepairBackfilled {
		filter = append(filter, bson.E{Key: "repair", Value: bson.D{{Key: "$ne", Value: string(market.RepairBackfilled)}}})
	}
	return mongo.NewUpdateOneModel().SetFilter(filter).
		SetUpdate(bson.D{{Key: "$max", Value: bson.D{{Key: "last", Value: g.LastID}}}})
}

func (g *gapStep) replacement() *mongo.UpdateOneModel {
	held := bson.E{Key: "repair", Value: string(market.RepairBackfilled)}
	filter := bson.D{{Key: "_id", Value: gapKey(g.Gap)}}
	either := func(a, b bson.D) { filter = append(filter, bson.E{Key: "$or", Value: bson.A{a, b}}) }
	switch vouches := g.Repair == market.RepairBackfilled; {
	case vouches:
		either(bson.D{held}, bson.D{{Key: "last", Value: bson.D{{Key: "$lte", Value: g.LastID}}}})
	case g.RepairedAt == 0:
		either(bson.D{{Key: "repaired", Value: int64(0)}}, bson.D{held, {Key: "last", Value: bson.D{{Key: "$lt", Value: g.LastID}}}})
	}
	return mongo.NewUpdateOneModel().SetUpsert(true).SetFilter(filter).SetUpdate(bson.D{
		{Key: "$set", Value: newGapDocument(g.Gap)},
		{Key: "$max", Value: bson.D{{Key: "last", Value: g.LastID}}},
	})
}

func listingUpdate(l *market.Listing) *mongo.UpdateOneModel {
	d := newListingDocument(l)
	d.ID = ""
	return unlessNewer(l.Market.String(), d.Updated, d)
}

func statusUpdate(s *market.RecorderStatus) *mongo.UpdateOneModel {
	d := newRecorderDocument(s)
	d.ID = ""
	return unlessNewer(s.Recorder, d.Updated, d)
}

// unlessNewer sets a document whose own _id is left out.
func unlessNewer(id string, updated int64, document any) *mongo.UpdateOneModel {
	return mongo.NewUpdateOneModel().SetUpsert(true).
		SetFilter(bson.D{
			{Key: "_id", Value: id},
			{Key: "updated", Value: bson.D{{Key: "$lte", Value: updated}}},
		}).
		SetUpdate(bson.D{{Key: "$set", Value: document}})
}
