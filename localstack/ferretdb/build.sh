#!/usr/bin/env bash
# Builds the Docker image tapedeck/ferretdb:2.7, on which the tests of shared/mongostore run where the image "mongo"
# cannot be pulled. It needs root, a Docker engine, debootstrap and Go, and takes some minutes the first time; README.md
# says what is in the image. Run again it does nothing, until one of the files beside it changes.
set -euo pipefail
umask 022
cd "$(dirname "$0")"

readonly image=tapedeck/ferretdb:2.7
readonly ferretdb_version=v2.7.0
readonly suite=sid # older releases have no postgresql-18-documentdb
readonly cache=${TAPEDECK_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tapedeck}/ferretdb
readonly rootfs=$cache/rootfs.tar.gz ferretdb=$cache/ferretdb-$ferretdb_version

say() { printf 'ferretdb: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# The mirror that this machine is set up with, for debootstrap and in the chroot; none (debootstrap knows a default) on
# a machine that is not Debian.
mirror() {
	if [ -n "${TAPEDECK_DEBIAN_MIRROR:-}" ]; then
		echo "$TAPEDECK_DEBIAN_MIRROR"
	elif grep -qx 'ID=debian' /etc/os-release; then
		apt-get indextargets --format '$(RELEASE) $(SITE)' 'Created-By: Packages' |
			awk '$1 !~ /-/ && $2 ~ /\/debian\/?$/ { print $2; exit }'
	fi
}

# A minimal Debian with PostgreSQL and DocumentDB, as an archive in the cache.
build_rootfs() {
	command -v debootstrap >/dev/null || die 'debootstrap is missing: apt-get install debootstrap'
	[ "$(id -u)" = 0 ] || die 'debootstrap needs root'
	local dir=$scratch/rootfs proxy=
	mkdir "$dir"
	eval "$(apt-config shell proxy Acquire::http::Proxy)"
	[ -z "$proxy" ] || export http_proxy=$proxy

	say "debootstrap $suite"
	# shellcheck disable=SC2046 # no mirror is no argument
	debootstrap --variant=minbase "$suite" "$dir" $(mirror) >"$cache/debootstrap.log" ||
		die "debootstrap failed: see $cache/debootstrap.log"

	say 'installing PostgreSQL and DocumentDB'
	# No service may start in the chroot.
	printf '#!/bin/sh\nexit 101\n' >"$dir/usr/sbin/policy-rc.d"
	chmod 755 "$dir/usr/sbin/policy-rc.d"
	# /etc/postgresql-common: the package makes no cluster of its own, the entry script does.
	mkdir -p "$dir/etc/postgresql-common"
	echo 'create_main_cluster = false' >"$dir/etc/postgresql-common/createcluster.conf"
	mount -t proc proc "$dir/proc"
	DEBIAN_FRONTEND=noninteractive chroot "$dir" apt-get install -y -q --no-install-recommends \
		postgresql-18 postgresql-18-documentdb >"$cache/install.log" 2>&1 ||
		die "installing failed: see $cache/install.log"
	umount "$dir/proc"
	chroot "$dir" dpkg-query -W postgresql-18 postgresql-18-documentdb >&2

	say 'packing'
	rm -f "$dir"/etc/apt/sources.list "$dir"/etc/apt/sources.list.d/* "$dir/usr/sbin/policy-rc.d" "$dir/etc/resolv.conf"
	tar -C "$dir" --one-file-system --numeric-owner \
		--exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' --exclude='./usr/share/locale/*' \
		--exclude='./usr/share/info/*' --exclude='./usr/lib/postgresql/*/lib/bitcode' \
		--exclude='./var/cache/*' --exclude='./var/lib/apt/lists/*' --exclude='./var/log/*' \
		-c . | gzip -1 >"$rootfs.new"
	mv "$rootfs.new" "$rootfs"
}

build_ferretdb() {
	say "go install ferretdb $ferretdb_version"
	GOBIN=$scratch GOWORK=off CGO_ENABLED=0 go install "github.com/FerretDB/FerretDB/v2/cmd/ferretdb@$ferretdb_version"
	mv "$scratch/ferretdb" "$ferretdb"
}

build_image() {
	local base context=$scratch/context
	base=tapedeck/ferretdb-base:$(sha256sum "$rootfs" | cut -c1-16)
	docker image inspect "$base" >/dev/null 2>&1 || docker import "$rootfs" "$base" >/dev/null
	mkdir "$context"
	cp Dockerfile entry.sh "$context/"
	cp "$ferretdb" "$context/ferretdb"
	docker build --build-arg "base=$base" --label "tapedeck.content=$content" --tag "$image" "$context" \
		>"$cache/image.log" 2>&1 || die "docker build failed: see $cache/image.log"
}

docker info >/dev/null 2>&1 || die 'no Docker engine answers'
content=$(cat build.sh Dockerfile entry.sh | sha256sum | cut -c1-16)
if [ "$(docker image inspect --format '{{index .Config.Labels "tapedeck.content"}}' "$image" 2>/dev/null)" = "$content" ]; then
	say "$image is up to date"
	exit 0
fi
mkdir -p "$cache"
exec 9>"$cache/lock"
flock 9 # two runs at once would build in each other's way
scratch=$(mktemp -d "$cache/scratch.XXXXXX")
chmod 755 "$scratch"
trap 'umount -q "$scratch/rootfs/proc" 2>/dev/null || true; rm -rf --one-file-system "$scratch"' EXIT
[ -s "$rootfs" ] || build_rootfs
[ -x "$ferretdb" ] || build_ferretdb
build_image
say "built $image"
