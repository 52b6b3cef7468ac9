#include "memory/extent.h"

#include <unistd.h>

bool wh_extent_next(int fd, uint64_t pages, uint64_t pfn, uint64_t *first, uint64_t *end)
{
    if (pfn >= pages)
        return false;
    off_t data = lseek(fd, (off_t)(pfn << WH_PAGE_SHIFT), SEEK_DATA);
    if (data < 0)
        return false;
    off_t hole = lseek(fd, data, SEEK_HOLE);
    *first = (uint64_t)data >> WH_PAGE_SHIFT;
    *end = hole < 0 ? pages : ((uint64_t)hole + WH_PAGE_SIZE - 1) >> WH_PAGE_SHIFT;
    if (*end > pages)
        *end = pages;
    return *first < *end;
}

bool wh_extent_hole(wh_extent *x, int fd, uint64_t pages, uint64_t pfn)
{
    if (pfn < x->from || pfn >= x->end) {
        x->from = pfn;
        if (!wh_extent_next(fd, pages, pfn, &x->first, &x->end))
            x->first = x->end = pages;
    }
    return pfn < x->first;
}
