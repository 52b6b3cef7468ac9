#include "switch/tap.h"

#include <errno.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>

/* Linux 6.2; older headers do not have them. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

int wh_tap_setup(int fd, bool *vnet, uint32_t *takes, wh_error *err)
{
    struct ifreq ifr = {0};
    *vnet = false;
    *takes = 0;
    if (ioctl(fd, TUNGETIFF, &ifr) != 0)
        return WH_OK; /* something else that gives and takes frames */
    if (!(ifr.ifr_flags & IFF_TAP) || !(ifr.ifr_flags & IFF_NO_PI))
        return wh_fail(err, WH_E_INVAL, "tap_fd", "%s has to be a TAP with IFF_NO_PI", ifr.ifr_name);
    if (!(ifr.ifr_flags & IFF_VNET_HDR))
        return WH_OK;
    int size = WH_VNET_BYTES, little = 1;
    if (ioctl(fd, TUNSETVNETHDRSZ, &size) != 0 || ioctl(fd, TUNSETVNETLE, &little) != 0)
        return wh_fail(err, WH_E_IO, "tap_fd", "%s: vnet header: %s", ifr.ifr_name, strerror(errno));
    *vnet = true;
    const unsigned long tso = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    *takes = WH_TAKES_CSUM | WH_TAKES_TSO4 | WH_TAKES_TSO6 | WH_TAKES_ECN;
    if (ioctl(fd, TUNSETOFFLOAD, tso | TUN_F_USO4 | TUN_F_USO6) == 0)
        *takes |= WH_TAKES_USO;
    else if (ioctl(fd, TUNSETOFFLOAD, tso) != 0)
        return wh_fail(err, WH_E_IO, "tap_fd", "%s: offloads: %s", ifr.ifr_name, strerror(errno));
    return WH_OK;
}
