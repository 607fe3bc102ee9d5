# shellcheck shell=bash
# Shared by the scripts beside it: how they speak, fail, become root and ask apt. It runs nothing by itself; what is
# installed, built and started is decided by `install`, `daemon` and `images`.

say() { printf '== %s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    has sudo || die "not root and no sudo: cannot run $*"
    sudo -- "$@"
  fi
}

docker_answers() { docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

# The version apt would install, empty if it has none.
apt_candidate() {
  apt-cache policy "$1" 2>/dev/null | sed -n 's/^  Candidate: //p' | grep -vx '(none)' || true
}

# The package lists are fetched once a run, and only when something is missing.
apt_lists_fresh=
apt_update() {
  [ -z "$apt_lists_fresh" ] || return 0
  # One broken third-party list must not stop us: a package that is really missing fails in apt_install.
  as_root apt-get update -qq || say "apt-get update complained; going on with the lists there are"
  apt_lists_fresh=yes
}

apt_install() {
  apt_update
  say "installing $*"
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >&2 </dev/null ||
    die "apt could not install $*"
}
