package mongostore

import (
	"context"
	"errors"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

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

// Write implements storetest.Store. What is written first is what the rest speaks of, so that a crash in between leaves
// nothing that promises what is not there.
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
	if err := insert(ctx, s.blocks, batch.Blocks, newBlockDocument, blockBytes); err != nil {
		return err
	}
	if err := insert(ctx, s.keyframes, batch.Keyframes, newKeyframeDocument, keyframeBytes); err != nil {
		return err
	}
	if err := upsert(ctx, s.spans, batch.Spans, spanUpdate); err != nil {
		return err
	}
	if err := upsert(ctx, s.gaps, batch.Gaps, gapUpdate); err != nil {
		return err
	}
	// A gap that was repaired keeps all but its last id.
	if err := upsert(ctx, s.gaps, batch.Gaps, gapGrowth); err != nil {
		return err
	}
	if err := upsert(ctx, s.listings, batch.Listings, listingUpdate); err != nil {
		return err
	}
	return upsert(ctx, s.recorders, batch.Statuses, statusUpdate)
}

func blockBytes(b *market.Block) int       { return documentBytes + len(b.Data) }
func keyframeBytes(k *market.Keyframe) int { return documentBytes + len(k.Data) }

// insert inserts records whose _id is not there yet.
func insert[R, D any](
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
		_, err := to.InsertMany(ctx, documents, options.InsertMany().SetOrdered(false))
		if err := beyondDuplicates(err); err != nil {
			return classify(ctx, err)
		}
		records = records[len(documents):]
	}
	return nil
}

// beyondDuplicates returns err unless it says only that some documents were there already.
func beyondDuplicates(err error) error {
	failed, ok := errors.AsType[mongo.BulkWriteException](err)
	if !ok || failed.WriteConcernError != nil {
		return err
	}
	for _, e := range failed.WriteErrors {
		if e.Code != duplicateKey {
			return err
		}
	}
	return nil
}

// upsert writes records in their order by updates that insert what is not there.
//
// An update with a condition beside its _id (not repaired yet; not newer) finds nothing when the condition fails, and
// its insertion then fails on the _id. It also fails when another writer inserts at the same moment. The second try
// tells: the document is there now, and a condition that has once failed does so for good.
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
			failed, ok := errors.AsType[mongo.BulkWriteException](err)
			if !ok || failed.WriteConcernError != nil || len(failed.WriteErrors) != 1 ||
				failed.WriteErrors[0].Code != duplicateKey {
				return classify(ctx, err)
			}
			if done = failed.WriteErrors[0].Index; done > 0 {
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

func gapUpdate(g *market.Gap) *mongo.UpdateOneModel {
	filter := bson.D{{Key: "_id", Value: seriesIDKey(g.Series, g.FirstID)}}
	if g.RepairedAt == 0 {
		filter = append(filter, bson.E{Key: "repaired", Value: int64(0)})
	}
	return mongo.NewUpdateOneModel().SetUpsert(true).SetFilter(filter).SetUpdate(bson.D{
		{Key: "$set", Value: newGapDocument(g)},
		{Key: "$max", Value: bson.D{{Key: "last", Value: g.LastID}}},
	})
}

func gapGrowth(g *market.Gap) *mongo.UpdateOneModel {
	return mongo.NewUpdateOneModel().
		SetFilter(bson.D{{Key: "_id", Value: seriesIDKey(g.Series, g.FirstID)}}).
		SetUpdate(bson.D{{Key: "$max", Value: bson.D{{Key: "last", Value: g.LastID}}}})
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
