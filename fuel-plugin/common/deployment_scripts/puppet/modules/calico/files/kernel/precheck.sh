#!/bin/sh
# What has to hold before anything on the node is changed.

# Measured with the package of 6.1.0-56: image 8 MB, initial file system 37 MB, and room for it to be made anew.
BOOT_MEGABYTES=80
# 401 MB of modules, and the package in apt's cache.
ROOT_MEGABYTES=600

precheck() {
    check_architecture
    check_boot_loader
    check_space /boot $BOOT_MEGABYTES
    check_space / $ROOT_MEGABYTES
    check_fstab
}

check_architecture() {
    machine=$(uname -m)
    [ "$machine" = x86_64 ] || give_up kernel_choice "this node is $machine, the kernel is for x86_64" \
        'set kernel_choice to keep, or leave ebpf_mode clear for this node'
    userland=$(dpkg --print-architecture)
    [ "$userland" = amd64 ] || give_up kernel_choice "this node's system is $userland, the kernel package is for amd64" \
        'install a 64-bit system, or set kernel_choice to keep'
}

# GRUB forgets the one-time entry by writing to grubenv at boot, which it can only in place on a plain partition. Where
# it cannot, a kernel that panics would be booted again and again.
check_boot_loader() {
    folder=$ROOT/boot/grub
    for program in grub-probe grub-reboot grub-set-default grub-editenv update-grub; do
        command -v $program >/dev/null || give_up kernel_choice "there is no $program: the boot loader is not GRUB 2" \
            'install grub-pc, or boot a kernel of your own and set kernel_choice to keep'
    done
    [ -s "$folder/grub.cfg" ] || give_up kernel_choice 'there is no /boot/grub/grub.cfg' \
        'run update-grub, or boot a kernel of your own and set kernel_choice to keep'
    abstraction=$(grub-probe --target=abstraction "$folder") || give_up kernel_choice 'grub-probe cannot tell where /boot/grub is' \
        'see what grub-probe /boot/grub says, or set kernel_choice to keep'
    [ -z "$abstraction" ] || give_up kernel_choice "/boot/grub is on $(echo "$abstraction" | tr '\n' ' ')where GRUB cannot take back a one-time boot" \
        'move /boot to a plain partition, or boot a kernel of your own and set kernel_choice to keep'
    filesystem=$(grub-probe --target=fs "$folder") || filesystem=unknown
    case "$filesystem" in
        ext2 | xfs | fat) ;;
        *) give_up kernel_choice "/boot/grub is on $filesystem, where GRUB cannot take back a one-time boot" \
            'move /boot to a partition with ext2, or boot a kernel of your own and set kernel_choice to keep' ;;
    esac
}

check_space() {
    free=$(df -Pk "$ROOT$1" | awk 'NR == 2 { print int($4 / 1024) }')
    [ "$free" -ge "$2" ] || give_up kernel_choice "$1 has $free MB free, the kernel needs $2" \
        "free space on $1 (old kernels: apt-get autoremove), or set kernel_choice to keep"
}

# Guests would die with the reboot that follows: the deployment stops here, whatever the policy is.
check_guests() {
    guests=$(running_guests)
    [ -z "$guests" ] || stop kernel_choice "virtual machines run here ($guests) and would not survive the reboot" \
        'migrate them away or stop them, or set kernel_choice to keep'
}

# running_guests: prints their processes and names, or nothing.
running_guests() {
    guests=''
    for process in "$ROOT"/proc/[0-9]*; do
        case "$(cat "$process/comm" 2>/dev/null || true)" in
            qemu-system* | qemu-kvm | kvm | qemu) guests="$guests${guests:+, }process ${process##*/}" ;;
        esac
    done
    if command -v virsh >/dev/null; then
        # Without libvirt's answer the processes above have told.
        for name in $(virsh list --name 2>/dev/null || true); do
            guests="$guests${guests:+, }$name"
        done
    fi
    echo "$guests"
}
