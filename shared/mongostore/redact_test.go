package mongostore_test

import (
	"strings"
	"testing"

	"tapedeck/shared/market"
	"tapedeck/shared/mongostore"
)

func TestRedact(t *testing.T) {
	for uri, want := range map[string]string{
		"mongodb://localhost":                  "mongodb://localhost",
		"mongodb://user@localhost/db":          "mongodb://user@localhost/db",
		"mongodb://user:s3cret@a:1,b:2/db?x=y": "mongodb://user:xxxxx@a:1,b:2/db?x=y",
		"mongodb+srv://user:s3cr%3At@host/":    "mongodb+srv://user:xxxxx@host/",
		"mongodb://user:s3c/re@t@host/db":      "mongodb://user:xxxxx@host/db", // malformed
		"user:s3cret@host":                     "user:xxxxx@host",
		"":                                     "",
		"mongodb://h/?tlsCertificateKeyFilePassword=s3cret&x=y":             "mongodb://h/?tlsCertificateKeyFilePassword=xxxxx&x=y",
		"mongodb://h/?x=y&authMechanismProperties=AWS_SESSION_TOKEN:s3cret": "mongodb://h/?x=y&authMechanismProperties=xxxxx",
	} {
		if got := mongostore.Redact(uri); got != want {
			t.Errorf("Redact(%q) = %q, want %q", uri, got, want)
		}
	}
}

func TestOpenErrorsHoldNoPassword(t *testing.T) {
	for _, uri := range []string{
		"mongodb://user:s3cret@", "mongodb://user:s3c%zzret@host", "mongodb://user:s3cret@host:port",
		"http://user:s3cret@host", "mongodb://us er:s3cr/et@host", "mongodb://user:s3cret@host/?maxPoolSize=x",
	} {
		_, err := mongostore.Open(t.Context(), uri, "tapedeck", mongostore.Function)
		if market.KindOf(err) != market.KindInvalid || strings.Contains(err.Error(), "s3c") {
			t.Errorf("Open(%q): kind %q: %v", uri, market.KindOf(err), err)
		}
	}
}
