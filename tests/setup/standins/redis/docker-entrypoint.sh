#!/bin/sh
# Accepts what the official image's entrypoint accepts: bare options or a configuration file mean `redis-server`, which
# listens to other containers without a password unless the caller says otherwise.
set -e
case "${1:-}" in
  -* | *.conf) set -- redis-server "$@" ;;
esac
case "$*" in
  *--protected-mode*) ;;
  redis-server*) set -- "$@" --protected-mode no ;;
esac
exec "$@"
