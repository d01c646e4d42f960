/* The dirty map of a disk as rows of cells, each shaded by how much of it is dirty. Pure drawing:
 * what is dirty is added range by range, the picture needs memory for its cells alone. */
#ifndef CTL_MAP_PICTURE_H
#define CTL_MAP_PICTURE_H

#include "ctl/terminal.h"
#include <stdint.h>

typedef struct MapPicture {
    uint64_t size; /* of the disk, bytes */
    uint64_t cell; /* bytes a cell stands for: the granularity times a power of two */
    unsigned columns;
    unsigned cells;  /* the last one may be short */
    uint64_t *dirty; /* bytes, one for each cell */
    uint64_t total;  /* dirty bytes */
    uint64_t ranges;
} MapPicture;

/* Chooses cells so that the picture is as wide as the terminal and no higher than it. */
void map_picture_init(MapPicture *picture, const Terminal *terminal, uint64_t size,
                      uint64_t granularity);
void map_picture_clear(MapPicture *picture);

/* Adds a dirty range; what is beyond the end of the disk is left out. */
void map_picture_add(MapPicture *picture, uint64_t offset, uint64_t length);

/* Appends the rows, each with the offset at which it begins, and the legend. */
void map_picture_append(GString *out, const MapPicture *picture, const Terminal *terminal);

#endif
