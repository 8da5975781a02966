# Sourced by the init of an initramfs: mounts, modules, result port.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
# A guest's file `parameters` has lines `MODULE NAME=VALUE`.
touch /guest/parameters
while read -r module; do
    name=${module##*/}
    insmod "$module" $(sed -n "s/^${name%.ko} //p" /guest/parameters) || echo "FAIL boot: insmod $module" >/dev/ttyS1
done </lib/modules/order
