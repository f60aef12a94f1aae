# Sourced by setup and setup-test: says what it does, installs only what is missing, may be run again.

say() { printf '==> %s\n' "$*"; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# The server's programs; Debian keeps them out of PATH.
has_postgresql() {
    has initdb && has postgres && return 0
    local initdb
    for initdb in /usr/lib/postgresql/*/bin/initdb; do
        [ -x "$initdb" ] && return 0
    done
    return 1
}

# Installs Debian or Ubuntu packages, by sudo for everybody but root.
install_packages() {
    has apt-get || die "missing: $* — this system has no apt-get, install what these packages hold and run this again"
    local as_root=()
    if [ "$(id -u)" -ne 0 ]; then
        has sudo || die "missing: $* — install them as root (there is no sudo here) and run this again"
        as_root=(sudo)
    fi
    say "installing $*"
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@"
}
