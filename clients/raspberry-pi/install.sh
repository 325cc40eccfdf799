#!/bin/sh
# Makes this machine a device of a federation: user, Python environment, configuration, certificate, service.
# Safe to run again: what is there is kept, what is missing is made, fedmesh itself is brought up to date.
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
bundle=$here
user=fedmesh
root=${DESTDIR:-}
prefix=/opt/fedmesh
etc=/etc/fedmesh
state=/var/lib/fedmesh
units=/etc/systemd/system
torch_index=https://download.pytorch.org/whl/cpu
source=fedmesh
broker=
trusted=
dry=
remove=

usage() {
    cat <<EOF
usage: sudo ./install.sh [--broker HOST] [--trusted-root FILE] [--from WHEEL] [--dry-run]
       sudo ./install.sh --remove [--dry-run]

  --broker HOST        the MQTT broker, as its certificate names it (first installation)
  --trusted-root FILE  root metadata of the coordinator's registry (first installation)
  --from WHEEL         a wheel, a folder or a requirement for pip; default: fedmesh
  --dry-run            print what would be done, and do nothing
  --remove             stop and remove the service and the program; keeps $etc and $state

The enrolment asks for the token that 'fedmesh ca token DEVICE' printed, or takes it from FEDMESH_TOKEN.
EOF
}

say() { printf '%s\n' "$*"; }

die() {
    printf 'install.sh: %s\n' "$*" >&2
    exit 1
}

run() {
    if [ -n "$dry" ]; then
        printf '+'
        printf ' %s' "$@"
        printf '\n'
    else
        "$@"
    fi
}

as_user() { run runuser -u "$user" -- "$@"; }

option() {
    if [ "$#" -lt 2 ] || [ -z "$2" ]; then die "$1 wants a value"; fi
}

while [ "$#" -gt 0 ]; do
    case $1 in
        --broker) option "$@"; broker=$2; shift ;;
        --trusted-root) option "$@"; trusted=$2; shift ;;
        --from) option "$@"; source=$2; shift ;;
        --bundle) option "$@"; bundle=$2; shift ;;
        --dry-run) dry=yes ;;
        --remove) remove=yes ;;
        -h | --help) usage; exit 0 ;;
        *) usage >&2; die "unknown option $1" ;;
    esac
    shift
done

case $broker in
    *[!A-Za-z0-9.:-]*) die "--broker $broker: wanted the name of a host" ;;
esac

remove_all() {
    run systemctl disable --now fedmesh-client.service || say "the service was not there"
    run rm -f "$root$units/fedmesh-client.service"
    run rm -rf "$root$units/fedmesh-client.service.d" "$root$prefix"
    run systemctl daemon-reload
    say "Removed. $etc and $state are still there: keys, and the ledger of the privacy that was spent."
    say "To leave for good: run 'fedmesh ca revoke DEVICE' at the authority, then delete both and the user $user."
}

check_machine() {
    [ -n "$dry" ] || [ "$(id -u)" -eq 0 ] || die "run it as root: sudo ./install.sh"
    case $(uname -m) in
        aarch64 | x86_64) ;;
        *) die "this is a $(uname -m) system: a 64-bit one is needed (ONNX Runtime and numpy have no others); see README.md" ;;
    esac
    [ "$(getconf LONG_BIT)" = 64 ] || die "a 32-bit system runs on this 64-bit kernel: install the 64-bit Raspberry Pi OS"
    command -v python3 >/dev/null || die "python3 is missing: apt-get install python3-venv"
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed (Raspberry Pi OS 12)"
}

install_program() {
    if ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        run apt-get install --yes --no-install-recommends python3-venv
    fi
    [ -x "$root$prefix/bin/python" ] || run python3 -m venv "$root$prefix"
    if grep -q '^tier *= *"full"' "$config"; then
        # The index of CPU builds, or pip may choose a torch with gigabytes of CUDA.
        set -- --extra-index-url "$torch_index" "${source}[train,serve]"
    else
        set -- "${source}[serve]" # the [inference] of the bundle listens
    fi
    run "$root$prefix/bin/python" -m pip install --disable-pip-version-check --no-cache-dir --upgrade "$@"
}

make_user() {
    if ! id "$user" >/dev/null 2>&1; then
        run useradd --system --user-group --home-dir "$state" --no-create-home --shell /usr/sbin/nologin "$user"
    fi
    run install -d -m 0755 "$root$etc"
    run install -d -m 0700 -o "$user" -g "$user" "$root$state"
}

write_configuration() {
    if [ -e "$root$etc/client.toml" ]; then
        say "kept $etc/client.toml"
    else
        made=$(mktemp)
        sed "s/^host = \"broker.local\" */host = \"${broker:-broker.local}\"  /" "$bundle/client.toml" >"$made"
        run install -m 0644 "$made" "$root$etc/client.toml"
        rm -f "$made"
    fi
    if [ -n "$trusted" ]; then
        [ -r "$trusted" ] || die "--trusted-root $trusted cannot be read"
        if [ -e "$root$etc/root.json" ] && ! cmp -s "$trusted" "$root$etc/root.json"; then
            die "$etc/root.json is another root than $trusted: remove it first if you mean to change whom you believe"
        fi
        run install -m 0644 "$trusted" "$root$etc/root.json"
    fi
}

enrol() {
    if [ -e "$root$state/identity/tls.pem" ]; then
        say "enrolled already"
    else
        as_user "$root$prefix/bin/fedmesh" enroll --dir "$root$state/identity"
    fi
}

install_service() {
    run install -d -m 0755 "$root$units"
    run install -m 0644 "$here/fedmesh-client.service" "$root$units/fedmesh-client.service"
    if [ -e "$bundle/fedmesh-client.conf" ]; then
        run install -d -m 0755 "$root$units/fedmesh-client.service.d"
        run install -m 0644 "$bundle/fedmesh-client.conf" "$root$units/fedmesh-client.service.d/50-bundle.conf"
    fi
    run systemctl daemon-reload
}

if [ -n "$remove" ]; then
    check_machine
    remove_all
    exit 0
fi

check_machine
config=$bundle/client.toml
[ ! -e "$root$etc/client.toml" ] || config=$root$etc/client.toml
make_user
install_program
write_configuration
enrol
install_service
if [ -r /sys/fs/cgroup/cgroup.controllers ] && ! grep -qw memory /sys/fs/cgroup/cgroup.controllers; then
    say "note: this kernel does not count memory, so the service's MemoryMax= does nothing; README.md says how to turn it on"
fi
if ! as_user "$root$prefix/bin/fedmesh" config check "$root$etc/client.toml"; then
    die "correct what is wrong above, then: sudo systemctl enable --now fedmesh-client"
fi
run systemctl enable fedmesh-client.service
run systemctl restart fedmesh-client.service
say "Done. Look at it with: systemctl status fedmesh-client; journalctl -u fedmesh-client -f"
