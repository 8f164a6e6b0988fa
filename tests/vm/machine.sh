#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Boots this distribution's own kernel in an emulated machine without a network, and runs a command in it. It has the files of this
# machine, read-only under a layer in memory, so what has been built here runs there.
#
#   tests/vm/machine.sh DIRECTORY COMMAND [ARGUMENT...]
#
# DIRECTORY is /out in the machine; kernel and initial files are kept there. Output and exit status are the command's; 77, with
# the reason, where there is no such kernel or no emulator. The kernel is a package that is unpacked, not installed.
#
# Environment: BRUMA_VM_KERNEL (package of a kernel; default: the distribution's), BRUMA_VM_TIMEOUT (seconds, 900)
set -uo pipefail

source=$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")
out=$(mkdir -p "${1:?DIRECTORY}" && readlink -f "$1") || exit
shift
: "${1:?COMMAND}"

skip() {
    echo "skipped: $*"
    exit 77
}

default_kernel() {
    # shellcheck disable=SC1091
    case "$(. /etc/os-release && echo "$ID")" in
    ubuntu) echo linux-image-generic ;;
    *) echo "linux-image-$(dpkg --print-architecture)" ;;
    esac
}

# The packages that a name without a version stands for: of the kernel, and of its modules where they have one of their own.
versioned() {
    apt-cache depends "$1" 2>/dev/null | sed -n 's/.*Depends: \(linux-\(image\|modules\)-[0-9].*\)/\1/p'
}

unpack_kernel() {
    local packages more
    mapfile -t packages < <(versioned "$kernel")
    mapfile -t more < <(versioned "${packages[0]:-none}")
    packages+=("${more[@]}")
    [ "${#packages[@]}" -gt 0 ] || return
    rm -rf "$out/kernel" "$out/packages"
    mkdir -p "$out/kernel" "$out/packages"
    (cd "$out/packages" && apt-get -qq -o Acquire::Retries=3 -o APT::Sandbox::User=root download "${packages[@]}") || return
    for more in "$out/packages"/*.deb; do
        dpkg-deb -x "$more" "$out/kernel" || return
    done
    rm -r "$out/packages"
    echo "$kernel ${packages[*]}" >"$out/kernel/name"
}

# Of its modules those that a node may need; the kernel finds them by the list.
make_initramfs() {
    local version=$1 files=$out/initramfs modules=$out/initramfs/lib/modules/$1 from=$out/kernel/lib/modules/$1
    [ -d "$from" ] || from=$out/kernel/usr/lib/modules/$1
    rm -rf "$files"
    mkdir -p "$files/bin" "$modules/kernel/drivers"
    cp "$(command -v busybox)" "$files/bin/busybox" && cp "$source/init" "$files/init" && chmod 755 "$files/init" || return
    cp -r "$from/kernel/net" "$from/kernel/fs" "$from/kernel/crypto" "$from/kernel/lib" "$modules/kernel/" || return
    cp -r "$from/kernel/drivers/virtio" "$from/kernel/drivers/net" "$modules/kernel/drivers/" || return
    rm -rf "$modules/kernel/drivers/net/ethernet" "$modules/kernel/drivers/net/wireless" "$modules/kernel/drivers/net/usb"
    cp "$from"/modules.{order,builtin,builtin.modinfo} "$modules/" && depmod -b "$files" "$version" 2>/dev/null
    (cd "$files" && find . -print0 | cpio --null -o -H newc --quiet -R 0:0) >"$out/initrd" && rm -rf "$files"
}

kernel=${BRUMA_VM_KERNEL:-$(default_kernel)}
for program in qemu-system-x86_64 busybox cpio depmod; do
    PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null || skip "vm: there is no $program"
done
export PATH=$PATH:/usr/sbin:/sbin
[ "$(uname -m)" = x86_64 ] || skip "vm: emulated machines are x86_64, this one is $(uname -m)"
if [ "$(cut -d' ' -f1 "$out/kernel/name" 2>/dev/null)" != "$kernel" ]; then
    unpack_kernel || skip "vm: the packages of $kernel are not to be had"
    rm -f "$out/initrd"
fi
image=$(echo "$out"/kernel/boot/vmlinuz-*)
[ "$out/initrd" -nt "$source/init" ] || make_initramfs "${image##*/vmlinuz-}" || exit
printf '%q ' "$@" >"$out/command"
rm -f "$out/output"
trap 'kill "${machine:-}" 2>/dev/null' EXIT
timeout "${BRUMA_VM_TIMEOUT:-900}" qemu-system-x86_64 -accel tcg,thread=multi -cpu Westmere -smp 2 -m 1536 -display none -no-reboot -nic none \
    -kernel "$image" -initrd "$out/initrd" -append "console=ttyS0 quiet panic=-1 rdinit=/init mitigations=off" \
    -serial "file:$out/console" -serial "file:$out/output" \
    -virtfs local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap \
    -virtfs "local,path=$out,mount_tag=out,security_model=none" </dev/null &
machine=$!
wait "$machine"
ended=$?
machine=""
tr -d '\r' <"$out/output" | sed '$d'
status=$(tr -d '\r' <"$out/output" 2>/dev/null | sed -n '$s/^exit status: //p')
case "$status" in
'' | *[!0-9]*)
    echo "the machine ended with $ended: ${status:-no command has ended in it}; the end of its console:"
    tail -5 "$out/console"
    exit 1
    ;;
esac
exit "$status"
