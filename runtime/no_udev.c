/* no_udev: for programs that carry their libraries. hwloc's asks udev for the vendors of disks, which kgen never asks
 * hwloc for, and Debian has no udev to link statically: without a context (udev_new) hwloc asks nothing further. */
#include <stddef.h>

void *udev_new(void) {
    return NULL;
}

void *udev_unref(void *udev) {
    (void)udev;
    return NULL;
}

void *udev_device_new_from_subsystem_sysname(void *udev, const char *subsystem, const char *name) {
    (void)udev, (void)subsystem, (void)name;
    return NULL;
}

const char *udev_device_get_property_value(void *device, const char *key) {
    (void)device, (void)key;
    return NULL;
}

void *udev_device_unref(void *device) {
    (void)device;
    return NULL;
}
