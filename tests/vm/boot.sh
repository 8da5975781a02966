# Sourced by the init of an initramfs: mounts, modules, result port.
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox --install -s /bin
export PATH=/bin:/sbin:/usr/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
while read -r module; do insmod "$module" || echo "FAIL boot: insmod $module" >/dev/ttyS1; done </lib/modules/order
