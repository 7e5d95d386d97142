#!/bin/sh
# Network hardware that was up under the old kernel has to be up under the new one, by the same name.

# is_up FOLDER: tells whether an interface is set up (IFF_UP) and has a carrier.
is_up() {
    flags=$(cat "$1/flags" 2>/dev/null || echo 0)
    [ $((flags & 1)) = 1 ] && [ "$(cat "$1/carrier" 2>/dev/null || echo 0)" = 1 ]
}

# record_interfaces: remembers name and address of each device with a driver that is up.
record_interfaces() {
    mkdir -p "$STATE"
    for folder in "$ROOT"/sys/class/net/*; do
        # Bridges, bonds and taps have no device: they are made by this system's configuration, not by a driver.
        [ -e "$folder/device" ] || continue
        is_up "$folder" || continue
        address=$(cat "$folder/address")
        # Members of a bond have the bond's address for a while.
        [ ! -e "$folder/master/bonding" ] || address=any
        echo "${folder##*/} $address"
    done >"$STATE/.interfaces.new"
    mv "$STATE/.interfaces.new" "$STATE/interfaces"
}

# lost_interface: prints what is wrong with the first interface that is not as it was, or nothing.
lost_interface() {
    [ -e "$STATE/interfaces" ] || return 0
    while read -r name address; do
        folder=$ROOT/sys/class/net/$name
        if [ ! -e "$folder" ]; then
            echo "interface $name ($address) was up before and does not exist$(firmware_hint)"
            return 0
        fi
        if [ "$address" != any ] && [ ! -e "$folder/master/bonding" ] && [ "$(cat "$folder/address")" != "$address" ]; then
            echo "interface $name was $address before and is $(cat "$folder/address")"
            return 0
        fi
        if ! is_up "$folder"; then
            echo "interface $name ($address) was up before and is not$(firmware_hint)"
            return 0
        fi
    done <"$STATE/interfaces"
}

# firmware_hint: prints the first firmware file that the kernel did not find.
firmware_hint() {
    dmesg 2>/dev/null | sed -n 's/.*[Dd]irect firmware load for \([^ ]*\) failed.*/ (firmware \1 is missing)/p' | head -n 1
}
