#!/bin/sh
# The installation of a Raspberry Pi, with the configuration and the limits of a wearable.
set -eu
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
exec "$here/../raspberry-pi/install.sh" --bundle "$here" "$@"
