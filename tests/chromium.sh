#!/bin/sh
# Installs Chromium and fonts for the tests of the desk's pages, where that needs nobody's decision: as
# root on Debian. `make test` runs this beside other set-up. It never fails: without Chromium those
# tests are skipped, and say why.
set -u
for each in "${CHROMIUM:-}" chromium chromium-browser google-chrome google-chrome-stable; do
	if [ -n "$each" ] && command -v "$each" > /dev/null; then
		exit 0
	fi
done
missing="so the tests of the desk's pages are skipped"
if [ "$(id -u)" != 0 ] || ! grep -qx 'ID="\?debian"\?' /etc/os-release 2> /dev/null; then
	echo "Chromium isn't installed, $missing. Install it, or set CHROMIUM to the path of one."
	exit 0
fi
log=$(mktemp)
trap 'rm -f "$log"' EXIT
apt() {
	DEBIAN_FRONTEND=noninteractive timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 -o Acquire::Retries=1 \
		-o Acquire::http::Timeout=15 "$@" >> "$log" 2>&1 < /dev/null
}
# The fonts have both widths, and signs such as arrows and check marks.
packages="chromium fonts-dejavu-core"
if { apt update && apt install --no-install-recommends -y $packages; } && command -v chromium > /dev/null; then
	echo "Chromium is installed, for the tests of the desk's pages."
else
	echo "Chromium can't be installed, $missing: $(grep -m 1 '^E:' "$log" || tail -n 1 "$log")"
fi
