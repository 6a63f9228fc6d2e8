/* Links the installed CUDA library, shared or as an archive, without a toolkit's headers: wrong sizes are
 * refused, and an empty problem is none; no device needed. */
#include <dsv4/dsv4.h>

#include <stdio.h>
#include <string.h>

int main(void) {
  dsv4_embed_params p;
  if (dsv4_embed_params_init(&p) != DSV4_OK) return 1;
  p.tokens = -1;
  p.hidden = 8;
  p.vocab = 3;
  p.streams = 4;
  if (dsv4_embed(&p, NULL) != DSV4_INVALID_ARGUMENT) return 2;
  puts(dsv4_last_error());
  if (!strstr(dsv4_last_error(), "value -1")) return 3;
  p.tokens = 0;
  if (dsv4_embed(&p, NULL) != DSV4_OK) return 4;
  if (dsv4_arch_count() < 1 || dsv4_arch(0) < 80) return 5;
  return strcmp(dsv4_backend(), "cuda") == 0 &&
                 dsv4_supports("embed", dsv4_arch(0), DSV4_DTYPE_BF16, DSV4_FORMAT_BF16)
             ? 0
             : 6;
}
