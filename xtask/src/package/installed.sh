# Installs the package PACKAGE with the system's own dpkg, runs what is in it as its service would, and removes it. All of it happens on
# a copy of this system that is gone at the end: what is written goes to a file system in memory, and nobody hears of the ports.
# Run as root by `cargo xtask package`, as: unshare --mount --net --pid --fork --kill-child sh installed.sh PACKAGE
set -eu
package=$1
fail() { echo "$*" >&2; exit 1; }

mount --make-rprivate /
work=$(mktemp -d)
mount -t tmpfs -o size=1g tmpfs "$work"
mkdir "$work/new" "$work/temporary" "$work/root"
mount -t overlay -o "lowerdir=/,upperdir=$work/new,workdir=$work/temporary" overlay "$work/root"
root=$work/root
mount -t proc proc "$root/proc"
mount --bind /dev "$root/dev"
cp "$package" "$root/modelgate.deb"
ip link set lo up

in_root() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin DEBIAN_FRONTEND=noninteractive "$@"; }
# Another installation, from an earlier package, may be on this machine.
in_root dpkg --purge modelgate > /dev/null 2>&1 || true
in_root dpkg --force-unsafe-io --install /modelgate.deb
in_root dpkg --status modelgate | grep -q '^Status: install ok installed' || fail "dpkg does not say that it is installed"
in_root dpkg --verify modelgate

unit=/usr/lib/systemd/system/modelgate
if [ -x "$root/usr/bin/systemd-analyze" ]; then
    # It also names units of others.
    said=$(in_root systemd-analyze verify --man=no $unit.socket $unit.service 2>&1 | grep modelgate || true)
    [ -z "$said" ] || fail "systemd: $said"
fi

# As the service does: its user, its state folder, and no way to more rights.
in_root install -d -o modelgate -g modelgate -m 0700 /var/lib/modelgate
as_service() {
    in_root setpriv --reuid modelgate --regid modelgate --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all \
        env MODELGATE_STATE_DIR=/var/lib/modelgate "$@"
}
as_service /usr/bin/modelgate --config /etc/modelgate/modelgate.yaml > "$root/tmp/printed" 2>&1 &
for _ in $(seq 100); do
    grep -q mg- "$root/tmp/printed" && as_service modelgate keys list > "$root/tmp/keys" 2>&1 && break
    sleep 0.1
done
grep -q '^ *mg-' "$root/tmp/printed" || fail "no API key was shown: $(cat "$root/tmp/printed")"
grep -q '^ *mgadmin-' "$root/tmp/printed" || fail "no token was shown: $(cat "$root/tmp/printed")"
grep -q '^first' "$root/tmp/keys" || fail "the first key is not listed: $(cat "$root/tmp/keys")"

# The same package again is an upgrade; the operator's configuration stays, and so does the state.
echo '# mine' >> "$root/etc/modelgate/modelgate.yaml"
in_root dpkg --force-unsafe-io --install /modelgate.deb
grep -q '^# mine' "$root/etc/modelgate/modelgate.yaml" || fail "an upgrade has changed the configuration"
in_root dpkg --remove modelgate
[ ! -e "$root/usr/bin/modelgate" ] || fail "the program is still there"
[ -e "$root/etc/modelgate/modelgate.yaml" ] || fail "the configuration was removed"
in_root dpkg --purge modelgate
[ ! -e "$root/etc/modelgate/modelgate.yaml" ] || fail "the configuration was not purged"
[ -e "$root/var/lib/modelgate/modelgate.db" ] || fail "a purge must not delete keys and usage"
