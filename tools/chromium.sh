#!/usr/bin/env bash
# Puts Debian's Chromium in place for the viewer's tests; does nothing when it is there. Needs root
# and apt to install it, and says so where it has not got them.
set -euo pipefail
if command -v chromium >/dev/null; then
  exit 0
fi
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null; then
  echo "there is no chromium, and only root with apt-get can install it here" >&2
  exit 1
fi
export DEBIAN_FRONTEND=noninteractive
install() { apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core; }
install >/dev/null 2>&1 || { apt-get update -qq && install >/dev/null; }
