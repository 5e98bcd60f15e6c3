/* fatbin: the PTX text inside what nvcc's fatbinary tool writes. */
#ifndef PTXVM_FATBIN_H
#define PTXVM_FATBIN_H

#include "codegen/base.h"

/* What an image that a program loads is. */
enum image_kind { IMAGE_TEXT, IMAGE_FATBIN, IMAGE_WRAPPER, IMAGE_ELF };
enum image_kind image_kind(const void *image);

/* Appends to *out the newest PTX that a device of this architecture may run (an "a" or "f" target only on its own
 * architecture). bytes: what is known of the image's size, 0 when only its own header tells (a pointer from a program).
 * arch 0: the newest of all. Errors name the entries found. */
bool fatbin_ptx(const void *image, size_t bytes, int arch, struct buf *out, struct err *e);

#endif
