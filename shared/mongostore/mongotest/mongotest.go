// Package mongotest gives tests a MongoDB server to work on.
//
// It is the one at TAPEDECK_TEST_MONGODB_URI, if that is set. Otherwise, where a Docker engine answers, it is a
// container of mongo:8 (and mongo:7) if the engine has that image or can pull it, and else one of the image that
// localstack/ferretdb/build.sh makes. Where there is none of these, a test is skipped and says so; with CI=true or
// TAPEDECK_REQUIRE_MONGODB=1 it fails.
package mongotest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
	"go.mongodb.org/mongo-driver/v2/mongo"
	"go.mongodb.org/mongo-driver/v2/mongo/options"
)

const (
	ferretImage = "tapedeck/ferretdb:2.7"
	ferretBuild = "localstack/ferretdb/build.sh"

	pullTimeout  = 3 * time.Minute
	startTimeout = time.Minute
)

// Server is a MongoDB server, or a stand-in for one.
type Server struct {
	URI   string // without a database
	Image string // "" for a server given by the environment

	container *testcontainers.DockerContainer
}

// Run runs f as a subtest against each kind of server that is to be had. The server ends with the subtest.
func Run(t *testing.T, f func(t *testing.T, s *Server)) {
	uri, images := targets(t)
	if uri != "" {
		t.Run("given", func(t *testing.T) { f(t, &Server{URI: uri}) })
		return
	}
	for _, image := range images {
		t.Run(strings.NewReplacer("/", "_", ":", "_").Replace(image), func(t *testing.T) { f(t, start(t, image)) })
	}
}

// Start starts the first kind of server that is to be had. It ends with the test.
func Start(t testing.TB) *Server {
	t.Helper()
	uri, images := targets(t)
	if uri != "" {
		return &Server{URI: uri}
	}
	return start(t, images[0])
}

// targets finds out what there is, and skips or fails the test when that is nothing.
func targets(t testing.TB) (uri string, images []string) {
	t.Helper()
	if uri := os.Getenv("TAPEDECK_TEST_MONGODB_URI"); uri != "" {
		return uri, nil
	}
	images, reason := findImages()
	if len(images) > 0 {
		return "", images
	}
	if os.Getenv("CI") == "true" || os.Getenv("TAPEDECK_REQUIRE_MONGODB") == "1" {
		t.Fatalf("no MongoDB to test on: %s", reason)
	}
	t.Skipf("no MongoDB to test on: %s", reason)
	return "", nil
}

// findImages looks once a process.
var findImages = sync.OnceValues(func() (images []string, reason string) {
	// The reaper's image cannot be pulled where others cannot; containers end with their tests.
	setDefault("TESTCONTAINERS_RYUK_DISABLED", "true")
	if _, err := os.Stat("/.dockerenv"); err == nil {
		// The library takes this machine for a container and would go by its bridge's address.
		setDefault("TESTCONTAINERS_HOST_OVERRIDE", "127.0.0.1")
	}
	ctx, cancel := context.WithTimeout(context.Background(), pullTimeout)
	defer cancel()
	docker, err := client.New(client.FromEnv)
	if err != nil {
		return nil, fmt.Sprintf("no Docker client: %v", err)
	}
	defer docker.Close() //nolint:errcheck // nothing is in flight
	if _, err := docker.Ping(ctx, client.PingOptions{}); err != nil {
		return nil, fmt.Sprintf("no Docker engine answers (%v), and TAPEDECK_TEST_MONGODB_URI is not set", err)
	}
	for _, image := range []string{"mongo:8", "mongo:7"} {
		if err := have(ctx, docker, image); err != nil {
			reason = fmt.Sprintf("image %s cannot be pulled (%v)", image, err)
			break
		}
		images = append(images, image)
	}
	if len(images) > 0 {
		return images, ""
	}
	if _, err := docker.ImageInspect(ctx, ferretImage); err != nil {
		return nil, fmt.Sprintf("%s, and %s has not been built (%s)", reason, ferretImage, ferretBuild)
	}
	return []string{ferretImage}, ""
})

func setDefault(name, value string) {
	if _, ok := os.LookupEnv(name); !ok {
		os.Setenv(name, value) //nolint:errcheck // neither is malformed
	}
}

// have pulls an image unless it is there.
func have(ctx context.Context, docker *client.Client, image string) error {
	if _, err := docker.ImageInspect(ctx, image); err == nil {
		return nil
	}
	pull, err := docker.ImagePull(ctx, image, client.ImagePullOptions{})
	if err != nil {
		return err
	}
	return pull.Wait(ctx)
}

func start(t testing.TB, image string) *Server {
	t.Helper()
	// A port of our own choice stays the same when the container is started again.
	port, err := freePort(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	exposed := network.MustParsePort("27017/tcp")
	c, err := testcontainers.Run(t.Context(), image,
		testcontainers.WithExposedPorts("27017/tcp"),
		testcontainers.WithHostConfigModifier(func(host *container.HostConfig) {
			host.PortBindings = network.PortMap{
				exposed: {{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: strconv.Itoa(port)}},
			}
		}),
		testcontainers.WithWaitStrategyAndDeadline(startTimeout, wait.ForListeningPort("27017/tcp")))
	if c != nil {
		t.Cleanup(func() {
			if err := testcontainers.TerminateContainer(c); err != nil {
				t.Errorf("end container of %s: %v", image, err)
			}
		})
	}
	if err != nil {
		t.Fatalf("start container of %s: %v", image, err)
	}
	s := &Server{URI: fmt.Sprintf("mongodb://127.0.0.1:%d", port), Image: image, container: c}
	s.wait(t)
	return s
}

func freePort(ctx context.Context) (int, error) {
	var config net.ListenConfig
	l, err := config.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close() //nolint:errcheck // it was never used
	return l.Addr().(*net.TCPAddr).Port, nil
}

// wait returns when the server answers.
func (s *Server) wait(t testing.TB) {
	t.Helper()
	c, err := mongo.Connect(options.Client().ApplyURI(s.URI).SetServerSelectionTimeout(startTimeout))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Disconnect(context.WithoutCancel(t.Context())) //nolint:errcheck // it has done its work
	if err := c.Ping(t.Context(), nil); err != nil {
		t.Fatalf("%s does not answer: %v", s.Image, err)
	}
}

var databases atomic.Int64

// Database returns the name of a database that nobody uses, and drops it at the end of the test.
func (s *Server) Database(t testing.TB) string {
	name := fmt.Sprintf("tapedeck_%d_%d", os.Getpid(), databases.Add(1))
	t.Cleanup(func() {
		ctx := context.WithoutCancel(t.Context())
		c, err := mongo.Connect(options.Client().ApplyURI(s.URI))
		if err != nil {
			t.Error(err)
			return
		}
		defer c.Disconnect(ctx) //nolint:errcheck // it has done its work
		if err := c.Database(name).Drop(ctx); err != nil {
			t.Errorf("drop database %s: %v", name, err)
		}
	})
	return name
}

// Kill ends the server at once, without warning. Restart brings it back, with what it had acknowledged.
func (s *Server) Kill(t testing.TB) {
	t.Helper()
	s.needContainer(t)
	none := time.Duration(0)
	if err := s.container.Stop(t.Context(), &none); err != nil {
		t.Fatalf("stop %s: %v", s.Image, err)
	}
}

// Restart starts a server that was killed, at the address that it had, and waits until it answers.
func (s *Server) Restart(t testing.TB) {
	t.Helper()
	s.needContainer(t)
	if err := s.container.Start(t.Context()); err != nil {
		t.Fatalf("start %s: %v", s.Image, err)
	}
	s.wait(t)
}

// Pause freezes the server: connections stay open, and nothing answers, until Unpause.
func (s *Server) Pause(t testing.TB) {
	t.Helper()
	s.control(t, func(docker *client.Client, id string) error {
		_, err := docker.ContainerPause(t.Context(), id, client.ContainerPauseOptions{})
		return err
	})
}

// Unpause ends a Pause.
func (s *Server) Unpause(t testing.TB) {
	t.Helper()
	s.control(t, func(docker *client.Client, id string) error {
		_, err := docker.ContainerUnpause(t.Context(), id, client.ContainerUnpauseOptions{})
		return err
	})
}

func (s *Server) control(t testing.TB, f func(docker *client.Client, id string) error) {
	t.Helper()
	s.needContainer(t)
	docker, err := client.New(client.FromEnv)
	if err != nil {
		t.Fatal(err)
	}
	defer docker.Close() //nolint:errcheck // nothing is in flight
	if err := f(docker, s.container.GetContainerID()); err != nil {
		t.Fatal(err)
	}
}

func (s *Server) needContainer(t testing.TB) {
	t.Helper()
	if s.container == nil {
		t.Skip("the server was given by TAPEDECK_TEST_MONGODB_URI and is not ours to stop")
	}
}
