package mongostore

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"go.mongodb.org/mongo-driver/v2/mongo"

	"tapedeck/shared/market"
)

// TestKinds: only what a server says of one document, and nothing else, is taken for a lasting refusal.
func TestKinds(t *testing.T) {
	refused := func(codes ...int) mongo.BulkWriteException {
		var e mongo.BulkWriteException
		for i, code := range codes {
			e.WriteErrors = append(e.WriteErrors, mongo.BulkWriteError{
				WriteError: mongo.WriteError{Index: i, Code: code, Message: "no"},
			})
		}
		return e
	}
	labeled := refused(121)
	labeled.Labels = []string{"RetryableWriteError"}
	unreplicated := refused(121)
	unreplicated.WriteConcernError = &mongo.WriteConcernError{Code: 64, Message: "waiting for replication timed out"}
	notReplicated := refused()
	notReplicated.WriteConcernError = &mongo.WriteConcernError{Code: 100, Message: "Not enough data-bearing nodes"}

	for name, c := range map[string]struct {
		err  error
		kind market.Kind
	}{
		"validator":                            {refused(121), market.KindInvalid},
		"bad value":                            {refused(2), market.KindInvalid},
		"invalid id":                           {refused(53), market.KindInvalid},
		"wrapped":                              {fmt.Errorf("write: %w", refused(121)), market.KindInvalid},
		"document too large":                   {refused(10334), market.KindTooLarge},
		"too large after an update":            {refused(17419), market.KindTooLarge},
		"key too long":                         {refused(17280), market.KindTooLarge},
		"key too long for PostgreSQL":          {refused(261), market.KindTooLarge},
		"a document that may be tried again":   {labeled, market.KindUnavailable},
		"refused, and not replicated":          {unreplicated, market.KindUnavailable},
		"not replicated":                       {notReplicated, market.KindUnavailable},
		"a document, but the primary is gone":  {refused(10107), market.KindUnavailable},
		"a document, interrupted":              {refused(11602), market.KindUnavailable},
		"a document, no disk space":            {refused(14031), market.KindUnavailable},
		"a document, a code that nobody knows": {refused(4_293), market.KindUnknown},
		"a document, an unknown operator":      {refused(9), market.KindUnknown},
		"several documents":                    {refused(121, 2), market.KindUnknown},
		"a command, bad value":                 {mongo.CommandError{Code: 2, Name: "BadValue"}, market.KindUnknown},
		"a command, too many sessions":         {mongo.CommandError{Code: 261}, market.KindUnknown},
		"a command, a validator's code":        {mongo.CommandError{Code: 121}, market.KindUnknown},
		"a command, over quota":                {mongo.CommandError{Code: 8000, Name: "AtlasError"}, market.KindUnknown},
		"a command, writes blocked":            {mongo.CommandError{Code: 371}, market.KindUnknown},
		"a command, not allowed":               {mongo.CommandError{Code: 13}, market.KindUnavailable},
		"a command, not primary":               {mongo.CommandError{Code: 10107}, market.KindUnavailable},
		"no connection":                        {mongo.CommandError{Labels: []string{"NetworkError"}}, market.KindUnavailable},
		"something else":                       {errors.New("something else"), market.KindUnknown},
	} {
		if got := market.KindOf(classify(t.Context(), c.err)); got != c.kind {
			t.Errorf("%s: %v is of kind %q, want %q", name, c.err, got, c.kind)
		}
	}

	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := classify(ended, refused(121)); market.KindOf(err) != market.KindUnknown || !errors.Is(err, context.Canceled) {
		t.Errorf("refused as the context ended: %v is of kind %q", err, market.KindOf(err))
	}
}
