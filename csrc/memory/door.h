/* The inside of the fault door. Private to memory/. */
#ifndef WH_DOOR_H
#define WH_DOOR_H

#include "memory/memory.h"

void wh_door_free(wh_door *door); /* NULL is fine; nobody uses the RAM any more */

#endif
