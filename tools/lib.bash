# shellcheck shell=bash
# Copyright (c) 2026 The ivshmem-flat authors
#
# SPDX-License-Identifier: GPL-2.0-or-later
#
# What the shell tools share. Sourced, not run.
#
# shellcheck disable=SC2034  # used by those that source it

# --help: what the program's head says
if [[ ${1:-} == --help || ${1:-} == -h ]]; then
    sed -n '/^# tools\//,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit
fi

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

# Outside the clone, so that a fresh clone does not fetch and compile again.
cache=${XDG_CACHE_HOME:-$HOME/.cache}/ivshmem-flat

debian_keyring=/usr/share/keyrings/debian-archive-keyring.gpg

say() { echo "==> $*"; }

die() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# apt's word on what went wrong, from its log, on one line
apt_error() { sed -n 's/^E: //p' "$1" | head -n 1; }

# address_of SUITE: where the system's own apt sources have this Debian suite.
# apt reads its sources itself here, so each of their formats will do, and
# this needs no lists to be there.
address_of() {
    # shellcheck disable=SC2016  # apt fills these in
    apt-get indextargets --format '$(RELEASE) $(COMPONENT) $(REPO_URI)' \
            'Identifier: Packages' |
        awk -v suite="$1" '$1 == suite && $2 == "main" && !n++ {print $3}'
}

# debian_mirror: the address of Debian's archive, by the system's own sources
debian_mirror() {
    local suite uri
    # shellcheck source=/dev/null
    for suite in "$(. /etc/os-release; echo "${VERSION_CODENAME:-}")" \
            stable oldstable bookworm trixie testing unstable sid; do
        uri=$(address_of "$suite")
        if [[ $uri ]]; then
            echo "$uri"
            return
        fi
    done
    return 1
}

# good DIR LIST: does DIR have all that this list of checksums names, as it is
# there?
good() {
    [[ -s $2 ]] && (cd "$1" && sha256sum --check --status --strict "$2")
}

# keep FILES URIS COMMAND...: have FILES hold what apt's list URIs names, and
# SHA256SUMS. COMMAND downloads it into the directory it is run in; until all of
# it is there and is good, FILES stays as it is.
keep() {
    local files=$1 new=$1.new wanted=$2.sums
    sed -n "s/^'.*' \([^ ]*\) [0-9]* SHA256:\([0-9a-f]*\)$/\2  \1/p" \
        "$2" >"$wanted"
    shift 2
    if ! good "$files" "$wanted"; then
        rm -rf "$new"
        mkdir "$new"
        (cd "$new" && "$@") && good "$new" "$wanted" || return
        rm -rf "$files"
        mv "$new" "$files"
    fi
    mv "$wanted" "$files/SHA256SUMS"
}

# private_apt DIR: a state of apt's own in DIR, whose sources are read from
# stdin. Afterwards "${apt[@]}" are the options for it. What the system's own
# lists, sources and cache hold stays as it is.
private_apt() {
    mkdir -p "$1"/{lists,cache/archives}/partial
    cat >"$1/sources.list"
    apt=(-q -o Dir::State::Lists="$1/lists" -o Dir::Cache="$1/cache"
         -o Dir::Etc::SourceList="$1/sources.list"
         -o Dir::Etc::SourceParts=/dev/null
         -o APT::Sandbox::User="$(id -un)" -o APT::Update::Error-Mode=any
         -o Acquire::Languages=none -o Acquire::http::Timeout=20
         -o Acquire::https::Timeout=20 -o Acquire::Retries=1)
}
