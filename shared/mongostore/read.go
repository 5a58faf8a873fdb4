package mongostore

import (
	"context"
	"math"

	"go.mongodb.org/mongo-driver/v2/bson"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"

	"tapedeck/shared/market"
)

var (
	ascending   = bson.D{{Key: "_id", Value: 1}}
	descending  = bson.D{{Key: "_id", Value: -1}}
	withoutData = bson.D{{Key: "data", Value: 0}}
)

// Tail implements storetest.Store.
func (s *Store) Tail(ctx context.Context, series market.Series) (_ market.Block, err error) {
	defer market.Wrap(&err, "read last block of %v from MongoDB", series)
	filter := between(timeBound(series.String(), 0), series.String()+"0") // "0" is what follows "/"
	blocks, err := find(ctx, s, s.blocks, filter,
		options.Find().SetSort(descending).SetLimit(1).SetProjection(withoutData), blockOf(series))
	return one(blocks, err)
}

// Blocks implements storetest.Store.
func (s *Store) Blocks(ctx context.Context, q market.BlockQuery) (_ []market.Block, err error) {
	defer market.Wrap(&err, "read blocks %+v from MongoDB", q)
	switch {
	case q.Limit < 1:
		return nil, market.Errorf(market.KindInvalid, "limit %d", q.Limit)
	case q.To <= 0:
		return nil, nil
	}
	from := bson.E{Key: "$gte", Value: timeBound(q.Series.String(), q.From)}
	if q.After != (market.BlockKey{}) && q.After.Start >= q.From {
		from = bson.E{Key: "$gt", Value: afterBound(q.Series, q.After)}
	}
	to := bson.E{Key: "$lt", Value: timeBound(q.Series.String(), q.To)}
	return find(ctx, s, s.blocks, bson.D{{Key: "_id", Value: bson.D{from, to}}},
		options.Find().SetSort(ascending).SetLimit(int64(q.Limit)), blockOf(q.Series))
}

// idWindows are the widths in which BlockByID looks for a block, one after the other: that of some dozen blocks, that of
// some hours, all ids. MongoDB reads one entry of the index whatever the width; FerretDB fetches and sorts all that
// match, which took 240 ms for 100,000 blocks.
var idWindows = [...]int64{1 << 14, 1 << 22, math.MaxInt64}

// BlockByID implements storetest.Store.
func (s *Store) BlockByID(ctx context.Context, series market.Series, id int64) (_ market.Block, err error) {
	defer market.Wrap(&err, "find block of %v with id %d in MongoDB", series, id)
	id = max(id, 0)
	opts := options.Find().SetSort(bson.D{{Key: "last", Value: 1}}).SetLimit(1).SetProjection(withoutData)
	for _, width := range idWindows {
		filter := bson.D{
			{Key: "series", Value: series.String()},
			{Key: "last", Value: bson.D{
				{Key: "$gte", Value: id}, {Key: "$lte", Value: id + min(width, math.MaxInt64-id)},
			}},
		}
		blocks, err := find(ctx, s, s.blocks, filter, opts, blockOf(series))
		if err != nil || len(blocks) > 0 {
			return one(blocks, err)
		}
	}
	return one[market.Block](nil, nil)
}

// Keyframe implements storetest.Store.
func (s *Store) Keyframe(ctx context.Context, m market.Market, at market.Time) (_ market.Keyframe, err error) {
	defer market.Wrap(&err, "find keyframe of %v at %v in MongoDB", m, at)
	// "0" sorts behind the "/" that follows the time, and before any later time.
	filter := between(timeBound(m.String(), 0), timeBound(m.String(), at)+"0")
	if at < 0 {
		filter = between("", "")
	}
	keyframes, err := find(ctx, s, s.keyframes, filter, options.Find().SetSort(descending).SetLimit(1),
		func(d *keyframeDocument) (market.Keyframe, error) { return d.keyframe(m) })
	return one(keyframes, err)
}

// Spans implements storetest.Store.
func (s *Store) Spans(
	ctx context.Context, series market.Series, from, to market.Time, limit int,
) (_ []market.Span, err error) {
	defer market.Wrap(&err, "read spans of %v from %v to %v from MongoDB", series, from, to)
	if limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", limit)
	}
	filter := bson.D{
		{Key: "series", Value: series.String()},
		{Key: "end", Value: bson.D{{Key: "$gte", Value: int64(from)}}},
		{Key: "start", Value: bson.D{{Key: "$lt", Value: int64(to)}}},
	}
	return find(ctx, s, s.spans, filter,
		options.Find().SetSort(bson.D{{Key: "start", Value: 1}, {Key: "first", Value: 1}}).SetLimit(int64(limit)),
		func(d *spanDocument) (market.Span, error) { return d.span(series) })
}

// Gaps implements storetest.Store.
func (s *Store) Gaps(ctx context.Context, q market.GapQuery) (_ []market.Gap, err error) {
	defer market.Wrap(&err, "read gaps %+v from MongoDB", q)
	if q.Limit < 1 {
		return nil, market.Errorf(market.KindInvalid, "limit %d", q.Limit)
	}
	filter := append(bson.D{{Key: "market", Value: q.Market.String()}}, overlapping(q.From, q.To)...)
	if q.Stream != "" {
		filter = append(filter, bson.E{Key: "stream", Value: string(q.Stream)})
	}
	if q.Cause != "" {
		filter = append(filter, bson.E{Key: "cause", Value: string(q.Cause)})
	}
	sort := bson.D{{Key: "start", Value: 1}, {Key: "first", Value: 1}, {Key: "stream", Value: 1}, {Key: "cause", Value: 1}}
	return find(ctx, s, s.gaps, filter, options.Find().SetSort(sort).SetLimit(int64(q.Limit)),
		func(d *gapDocument) (market.Gap, error) { return d.gap(q.Market) })
}

// overlapping selects gaps that last within [from, to), whichever of their times is the earlier. Indexes serve what does
// not end before the range, which leaves little where something recent is asked for; what begins behind it is left out of
// that ($nor uses no index).
func overlapping(from, to market.Time) bson.D {
	atOrAfter := func(t market.Time) bson.D { return bson.D{{Key: "$gte", Value: int64(t)}} }
	return bson.D{
		{Key: "$or", Value: bson.A{
			bson.D{{Key: "end", Value: atOrAfter(from)}},
			bson.D{{Key: "end", Value: int64(0)}},
			bson.D{{Key: "start", Value: atOrAfter(from)}},
		}},
		{Key: "$nor", Value: bson.A{
			bson.D{{Key: "start", Value: atOrAfter(to)}, {Key: "end", Value: atOrAfter(to)}},
			bson.D{{Key: "start", Value: atOrAfter(to)}, {Key: "end", Value: int64(0)}},
		}},
	}
}

// Listings implements storetest.Store.
func (s *Store) Listings(ctx context.Context) (_ []market.Listing, err error) {
	defer market.Wrap(&err, "read listings from MongoDB")
	return find(ctx, s, s.listings, bson.D{}, options.Find().SetSort(ascending), (*listingDocument).listing)
}

// Recorders implements storetest.Store.
func (s *Store) Recorders(ctx context.Context) (_ []market.RecorderStatus, err error) {
	defer market.Wrap(&err, "read recorders from MongoDB")
	return find(ctx, s, s.recorders, bson.D{}, options.Find().SetSort(ascending), (*recorderDocument).status)
}

// between selects the keys from, inclusive, to, exclusive.
func between(from, to string) bson.D {
	return bson.D{{Key: "_id", Value: bson.D{{Key: "$gte", Value: from}, {Key: "$lt", Value: to}}}}
}

func blockOf(series market.Series) func(*blockDocument) (market.Block, error) {
	return func(d *blockDocument) (market.Block, error) { return d.block(series) }
}

// find runs a query and converts its documents. The query's limit bounds them, or there is one for each market or
// recorder.
func find[D, R any](
	ctx context.Context, s *Store, in *mongo.Collection, filter bson.D, opts *options.FindOptionsBuilder,
	convert func(*D) (R, error),
) ([]R, error) {
	ctx, cancel := context.WithTimeout(ctx, s.limits.call)
	defer cancel()
	cursor, err := in.Find(ctx, filter, opts.SetBatchSize(math.MaxInt32))
	if err != nil {
		return nil, classify(ctx, err)
	}
	defer cursor.Close(context.WithoutCancel(ctx)) //nolint:errcheck // Err tells what went wrong
	var found []R
	for cursor.Next(ctx) {
		var document D
		if err := cursor.Decode(&document); err != nil {
			return nil, market.Errorf(market.KindCorrupt, "document in %s: %w", in.Name(), err)
		}
		record, err := convert(&document)
		if err != nil {
			return nil, market.Errorf(market.KindCorrupt, "document in %s: %w", in.Name(), err)
		}
		found = append(found, record)
	}
	return found, classify(ctx, cursor.Err())
}

func one[R any](found []R, err error) (R, error) {
	if err == nil && len(found) == 0 {
		err = market.Errorf(market.KindNotFound, "none is there")
	}
	if err != nil {
		var none R
		return none, err
	}
	return found[0], nil
}
