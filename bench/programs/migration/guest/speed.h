#ifndef SPEED_H
#define SPEED_H

int speed(double seconds);

#endif
