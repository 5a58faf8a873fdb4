package storm

import (
	"bufio"
	"compress/gzip"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"tapedeck/shared/market"
)

// truth is all that the exchange made, whoever was told of it, in one file a series. It is read with a plain JSON
// decoder, which shares nothing with the program under test.
type truth struct {
	dir string

	mu     sync.Mutex
	series map[market.Series]*truthFile
	sealed bool
	err    error
}

type truthFile struct {
	file *os.File
	buf  *bufio.Writer
	zip  *gzip.Writer
	last []byte // the latest frame
}

func newTruth(dir string) (*truth, error) {
	return &truth{dir: dir, series: map[market.Series]*truthFile{}}, os.MkdirAll(dir, 0o750)
}

// seriesOf returns which series a stream is; false for streams that nobody records.
func seriesOf(stream string) (market.Series, bool) {
	symbol, kind, _ := strings.Cut(stream, "@")
	s := market.Series{Market: market.Market{Exchange: market.Binance, Symbol: strings.ToUpper(symbol)}}
	switch kind {
	case "depth@100ms":
		s.Stream = market.Depth
	case "trade":
		s.Stream = market.Trades
	default:
		return s, false
	}
	return s, true
}

// streamOf returns the stream of a series.
func streamOf(s market.Series) string {
	kind := "@trade"
	if s.Stream == market.Depth {
		kind = "@depth@100ms"
	}
	return strings.ToLower(s.Market.Symbol) + kind
}

func (t *truth) path(series market.Series) string {
	return filepath.Join(t.dir, series.Market.Symbol+"-"+string(series.Stream)+".gz")
}

// observe is an exchange.Observer.
func (t *truth) observe(stream string, combined []byte) {
	series, ok := seriesOf(stream)
	if !ok {
		return
	}
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sealed || t.err != nil {
		return
	}
	f := t.series[series]
	if f == nil {
		if f, t.err = createTruthFile(t.path(series)); t.err != nil {
			return
		}
		t.series[series] = f
	}
	f.last = append(f.last[:0], combined...)
	head := binary.LittleEndian.AppendUint64(nil, uint64(now.UnixNano()))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(combined)))
	_, err := f.zip.Write(head)
	if err == nil {
		_, err = f.zip.Write(combined)
	}
	t.err = err
}

func createTruthFile(path string) (*truthFile, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	f := &truthFile{file: file, buf: bufio.NewWriter(file)}
	f.zip, err = gzip.NewWriterLevel(f.buf, gzip.BestSpeed)
	return f, err
}

// seal ends the truth: what happens from now on is not part of it.
func (t *truth) seal() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sealed {
		return t.err
	}
	t.sealed = true
	for _, f := range t.series {
		t.err = errors.Join(t.err, f.zip.Close(), f.buf.Flush(), f.file.Close())
	}
	return t.err
}

// lastIDs returns the id of the last event of each series.
func (t *truth) lastIDs() (map[market.Series]int64, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ids := map[market.Series]int64{}
	for series, f := range t.series {
		var e event
		if err := e.parse(f.last); err != nil {
			return nil, err
		}
		ids[series] = e.lastID
	}
	return ids, nil
}

// event is an event of the truth: a depth update or a trade.
type event struct {
	made            time.Time   // by the clock of this machine; of one that is made
	received        market.Time // of one that is held
	firstID, lastID int64       // both the id of a trade
	time            market.Time
	update          market.DepthUpdate
	trade           market.Trade
}

// frame is what the exchange's frames have in them.
type frame struct {
	Data struct {
		Kind  string      `json:"e"`
		Event int64       `json:"E"`
		First int64       `json:"U"`
		Last  int64       `json:"u"`
		Bids  [][2]string `json:"b"`
		Asks  [][2]string `json:"a"`
		ID    int64       `json:"t"`
		Trade int64       `json:"T"`
		Price string      `json:"p"`
		Qty   string      `json:"q"`
		Maker bool        `json:"m"`
		Match bool        `json:"M"`
	} `json:"data"`
}

func milliseconds(n int64) market.Time { return market.Time(n) * market.Time(time.Millisecond) }

func (e *event) parse(combined []byte) error {
	var f frame
	if err := json.Unmarshal(combined, &f); err != nil {
		return err
	}
	d := &f.Data
	switch d.Kind {
	case "depthUpdate":
		e.firstID, e.lastID, e.time = d.First, d.Last, milliseconds(d.Event)
		e.update = market.DepthUpdate{FirstID: d.First, LastID: d.Last, PrevID: d.First - 1, EventTime: e.time}
		var err error
		if e.update.Bids, err = levels(d.Bids); err != nil {
			return err
		}
		e.update.Asks, err = levels(d.Asks)
		return err
	case "trade":
		e.firstID, e.lastID, e.time = d.ID, d.ID, milliseconds(d.Trade)
		price, err := market.ParseDecimal(d.Price)
		if err != nil {
			return err
		}
		quantity, err := market.ParseDecimal(d.Qty)
		if err != nil {
			return err
		}
		e.trade = market.Trade{ID: d.ID, EventTime: e.time, SentTime: milliseconds(d.Event), Price: price, Quantity: quantity, Side: market.Buy}
		if d.Maker {
			e.trade.Side = market.Sell
		}
		if d.Match {
			e.trade.Flags = market.TradeFlagM
		}
		return nil
	}
	return fmt.Errorf("event %q", d.Kind)
}

func levels(texts [][2]string) ([]market.Level, error) {
	list := make([]market.Level, len(texts))
	for i, text := range texts {
		var err error
		if list[i].Price, err = market.ParseDecimal(text[0]); err != nil {
			return nil, err
		}
		if list[i].Quantity, err = market.ParseDecimal(text[1]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// events yields what the exchange made in a series, in its order. The truth is sealed.
func (t *truth) events(series market.Series) iter.Seq2[*event, error] {
	return func(yield func(*event, error) bool) {
		file, err := os.Open(t.path(series))
		if errors.Is(err, os.ErrNotExist) {
			return
		}
		if err != nil {
			yield(nil, err)
			return
		}
		defer file.Close()
		zip, err := gzip.NewReader(bufio.NewReaderSize(file, 1<<16))
		if err != nil {
			yield(nil, err)
			return
		}
		var head [12]byte
		var combined []byte
		for {
			if _, err := io.ReadFull(zip, head[:]); errors.Is(err, io.EOF) {
				return
			} else if err != nil {
				yield(nil, err)
				return
			}
			size := binary.LittleEndian.Uint32(head[8:])
			if combined = append(combined[:0], make([]byte, size)...); size == 0 {
				continue
			}
			e := &event{made: time.Unix(0, int64(binary.LittleEndian.Uint64(head[:8])))}
			if _, err := io.ReadFull(zip, combined); err != nil {
				yield(nil, err)
				return
			}
			if err := e.parse(combined); err != nil {
				yield(nil, fmt.Errorf("%s: %w", combined, err))
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}
