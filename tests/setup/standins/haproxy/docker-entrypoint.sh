#!/bin/sh
# Accepts what the official image's entrypoint accepts: `haproxy` or bare options run it in the foreground as master and worker.
set -e
case "${1:-}" in
  -*) set -- haproxy "$@" ;;
esac
if [ "$1" = haproxy ]; then
  shift
  set -- haproxy -W -db "$@"
fi
exec "$@"
