package storm

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"tapedeck/localstack/gateway"
	"tapedeck/localstack/internal/child"
)

const (
	module       = "../.."
	trialsAtOnce = 8
)

// built is the folder of binaries, "" while there is none.
var built string

// binaries builds the programs under test once.
var binaries = sync.OnceValues(func() (folder string, err error) {
	folder, err = os.MkdirTemp("", "tapedeck-storm-bin-")
	if err != nil {
		return "", err
	}
	built = folder
	for out, pkg := range map[string]string{
		"ingester":                  "./ingester",
		"tapedeck-verify":           "./ingester/cmd/tapedeck-verify",
		bookFunction + "/bootstrap": gateway.Package(bookFunction),
	} {
		// With the flags of make test, which has built all of it already.
		cmd := exec.Command("go", "build", "-tags", "lambda.norpc", "-trimpath", "-o", filepath.Join(folder, out), pkg)
		cmd.Dir = module
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if output, err := cmd.CombinedOutput(); err != nil {
			return folder, fmt.Errorf("build %s: %w: %s", pkg, err, output)
		}
	}
	return folder, nil
})

func TestMain(m *testing.M) {
	flag.Parse()
	// Trials wait more than they compute: all at once, unless somebody asks for something else.
	if f := flag.Lookup("test.parallel"); f.Value.String() == f.DefValue {
		_ = f.Value.Set(strconv.Itoa(trialsAtOnce))
	}
	code := m.Run()
	if built != "" {
		_ = os.RemoveAll(built)
	}
	os.Exit(code)
}

// startTimeout bounds the time until the ingester serves operators.
const startTimeout = 30 * time.Second

// process is the ingester, from one start to its end.
type process struct {
	cmd    *exec.Cmd
	ops    string
	exited chan struct{} // closed when it has ended
	err    error         // how; valid once exited is closed
}

// launcher starts ingesters one after another, each on the spool that the one before left.
type launcher struct {
	starter *child.Starter
	binary  string
	env     []string
	log     *os.File
}

// start returns when the ingester serves operators, or has ended.
func (l *launcher) start(ctx context.Context) (*process, error) {
	p := &process{cmd: exec.Command(l.binary), exited: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), l.env...)
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := l.starter.Start(p.cmd); err != nil {
		return nil, err
	}
	address := make(chan string, 1)
	go func() {
		l.follow(stderr, address)
		p.err = p.cmd.Wait()
		close(p.exited)
	}()
	timeout := time.NewTimer(startTimeout)
	defer timeout.Stop()
	select {
	case found := <-address:
		p.ops = "http://" + found
		return p, nil
	case <-p.exited:
		return nil, fmt.Errorf("the ingester ended at its start: %w", p.err)
	case <-timeout.C:
		err = errors.New("the ingester does not serve operators")
	case <-ctx.Done():
		err = ctx.Err()
	}
	p.kill()
	return nil, err
}

// follow copies the ingester's log and finds the address in it.
func (l *launcher) follow(stderr io.Reader, address chan<- string) {
	lines := bufio.NewScanner(stderr)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		_, _ = l.log.Write(append(bytes.Clone(lines.Bytes()), '\n'))
		var entry struct{ Address string }
		if json.Unmarshal(lines.Bytes(), &entry) == nil && entry.Address != "" {
			select {
			case address <- entry.Address:
			default:
			}
		}
	}
	_, _ = io.Copy(l.log, stderr) // a line that is too long
}

// kill ends the process at once (SIGKILL).
func (p *process) kill() {
	_ = p.cmd.Process.Kill() // it may have ended
	<-p.exited
}

// terminate asks the process to end (SIGTERM), and returns how it did.
func (p *process) terminate(limit time.Duration) error {
	_ = p.cmd.Process.Signal(syscall.SIGTERM) // it may have ended
	timeout := time.NewTimer(limit)
	defer timeout.Stop()
	select {
	case <-p.exited:
		return p.err
	case <-timeout.C:
		p.kill()
		return fmt.Errorf("it did not end within %v of SIGTERM", limit)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

var client = &http.Client{Timeout: 10 * time.Second}

func get(ctx context.Context, url string) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, nil, err
	}
	reply, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer reply.Body.Close()
	body, err := io.ReadAll(reply.Body)
	return reply.StatusCode, body, err
}

// ready reports whether the ingester says that all is well, and else what is not.
func (p *process) ready(ctx context.Context) (bool, string) {
	status, body, err := get(ctx, p.ops+"/readyz")
	if err != nil {
		return false, err.Error()
	}
	return status == http.StatusOK, string(body)
}

// metrics are the sums of all samples of each metric.
type metrics map[string]float64

func (p *process) metrics(ctx context.Context) (metrics, error) {
	_, body, err := get(ctx, p.ops+"/metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	sums := metrics{}
	for name, family := range families {
		for _, m := range family.GetMetric() {
			sums[name] += m.GetCounter().GetValue() + m.GetGauge().GetValue() + m.GetUntyped().GetValue()
		}
	}
	return sums, nil
}

// poll calls done every so often until it returns true; false when limit is over or ctx has ended.
func poll(ctx context.Context, limit time.Duration, done func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}
