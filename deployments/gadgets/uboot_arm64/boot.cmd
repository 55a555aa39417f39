# Boots one of two slots; U-Boot runs this as boot.scr. State, in coreimage.env beside it, means what it means to GRUB:
#   slot    a or b: the slot that is known to work
#   trial   a or b: the slot that an update wants tried; absent otherwise
#   tries   1 once the trial was started; a second start means that the first was never confirmed
#   failed  the slot whose trial was given up
# Giving up a trial is recorded before the old slot boots, so an unconfirmed fallback stays where it is.
setenv place ${devtype} ${devnum}:${distro_bootpart}
setenv slot a
setenv trial
setenv tries 0
setenv failed
if load ${place} ${ramdisk_addr_r} coreimage.env; then
    env import -t ${ramdisk_addr_r} ${filesize} slot trial tries failed
fi
if test "${slot}" != "b"; then setenv slot a; fi
if test "${trial}" != "a" && test "${trial}" != "b"; then setenv trial; fi

setenv boot_slot ${slot}
if test -n "${trial}"; then
    if test "${tries}" = "0"; then
        setenv tries 1
        # A trial that cannot be recorded is not started: it could never be given up.
        env export -t ${ramdisk_addr_r} slot trial tries
        if fatwrite ${place} ${ramdisk_addr_r} coreimage.env ${filesize}; then setenv boot_slot ${trial}; fi
    else
        setenv failed ${trial}
        setenv trial
        setenv tries 0
        env export -t ${ramdisk_addr_r} slot tries failed
        fatwrite ${place} ${ramdisk_addr_r} coreimage.env ${filesize}
    fi
fi

# The other slot is tried when this one does not start at all.
if test "${boot_slot}" = "a"; then setenv other_slot b; else setenv other_slot a; fi
for next in ${boot_slot} ${other_slot}; do
    echo "coreimage: slot ${next}"
    setenv bootargs root=LABEL=system-${next} ro ${console_args} panic=-1
    setenv fdt ${fdtcontroladdr}
    if test -n "${fdtfile}"; then
        if load ${place} ${fdt_addr_r} ${next}/dtbs/${fdtfile}; then setenv fdt ${fdt_addr_r}; fi
    fi
    if load ${place} ${kernel_addr_r} ${next}/vmlinuz; then
        if load ${place} ${ramdisk_addr_r} ${next}/initrd.img; then
            booti ${kernel_addr_r} ${ramdisk_addr_r}:${filesize} ${fdt}
        fi
    fi
    echo "coreimage: slot ${next} does not start"
done
reset
