package mongostore

import (
	"errors"
	"net"
	"net/url"
	"regexp"
	"strings"

	"tapedeck/shared/market"
)

const redacted = "xxxxx"

// secretOptions are the options of a URI that may hold a secret.
var secretOptions = regexp.MustCompile(`(?i)([?&](?:authMechanismProperties|tlsCertificateKeyFilePassword|` +
	`sslClientCertificateKeyPassword)=)[^&]*`)

// Redact returns a MongoDB URI without its password and other secrets, for logs. It takes anything for a password that
// might be one, also in a URI that is malformed.
func Redact(uri string) string {
	password, prefix, rest := split(uri)
	if password != "" {
		uri = prefix + redacted + rest
	}
	return secretOptions.ReplaceAllString(uri, "${1}"+redacted)
}

// split finds the password of a URI: what stands between the first colon and the last @ behind the scheme.
func split(uri string) (password, prefix, rest string) {
	start := 0
	if i := strings.Index(uri, "://"); i >= 0 {
		start = i + len("://")
	}
	end := strings.LastIndexByte(uri, '@')
	if end < start {
		return "", uri, ""
	}
	_, password, _ = strings.Cut(uri[start:end], ":")
	return password, uri[:end-len(password)], uri[end:]
}

// openError makes an error of a bad URI fit to be printed.
func openError(uri string, err error) error {
	message := strings.ReplaceAll(err.Error(), uri, Redact(uri))
	if password, _, _ := split(uri); password != "" {
		message = strings.ReplaceAll(message, password, redacted)
		if plain, err := url.PathUnescape(password); err == nil && plain != "" {
			message = strings.ReplaceAll(message, plain, redacted)
		}
	}
	kind := market.KindInvalid
	if _, ok := errors.AsType[*net.DNSError](err); ok {
		kind = market.KindUnavailable
	}
	return market.Errorf(kind, "MongoDB URI %s: %s", Redact(uri), message)
}
