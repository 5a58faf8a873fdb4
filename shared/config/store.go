package config

import (
	"log/slog"
	"strings"
)

// Secret is a text that must not appear in logs or errors: whatever prints it, prints a placeholder.
type Secret string

const placeholder = "[redacted]"

// Reveal returns the secret itself.
func (s Secret) Reveal() string { return string(s) }

// String returns a placeholder, or "" when there is no secret.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return placeholder
}

// GoString is String; %#v would otherwise print the secret.
func (s Secret) GoString() string { return s.String() }

// LogValue is String, for log/slog.
func (s Secret) LogValue() slog.Value { return slog.StringValue(s.String()) }

// MarshalText is String, for encoding/json.
func (s Secret) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// DefaultDatabase is the name of the MongoDB database where MONGODB_DATABASE does not say another.
const DefaultDatabase = "tapedeck"

// Store says where records are kept: either MongoURI or SQLitePath is set.
type Store struct {
	MongoURI      Secret
	MongoDatabase string
	SQLitePath    string
}

// Store reads MONGODB_URI and MONGODB_DATABASE, or SQLITE_PATH. Both or none is an error.
func (e *Env) Store() Store {
	s := Store{
		MongoURI:      Secret(e.String("MONGODB_URI", "")),
		MongoDatabase: e.String("MONGODB_DATABASE", DefaultDatabase),
		SQLitePath:    e.String("SQLITE_PATH", ""),
	}
	switch {
	case s.MongoURI == "" && s.SQLitePath == "":
		e.Fail("MONGODB_URI, SQLITE_PATH", "one of them is required")
	case s.MongoURI != "" && s.SQLitePath != "":
		e.Fail("MONGODB_URI, SQLITE_PATH", "only one of them may be set")
	}
	if uri := s.MongoURI.Reveal(); uri != "" && !strings.HasPrefix(uri, "mongodb://") && !strings.HasPrefix(uri, "mongodb+srv://") {
		e.Fail("MONGODB_URI", "does not start with mongodb:// or mongodb+srv://")
	}
	return s
}
