/* Stands in for libcuda.so.1: which devices a program would see. It obeys CUDA_VISIBLE_DEVICES as
 * the driver does (UUIDs, their beginnings, or indices; the list ends at the first that is not
 * there), over the GPUs of the file that STAND_IN_GPUS names: "gpus N" and "gpu K uuid/hidden/lost".
 * In a container the hook's stand-in has left that file in /etc. No file: no GPUs. Without "gpu"
 * lines the UUIDs are those of nvml.c.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define API __attribute__((visibility("default")))
#define MOST 64

static char uuids[MOST][96];
static int count = -1;

static void look(void) {
    char there[MOST][96], away[MOST] = {0}, line[512];
    int n = 0, which, number;
    count = 0;
    const char *path = getenv("STAND_IN_GPUS");
    FILE *file = fopen(path ? path : "/etc/stand-in-gpus", "re");
    for (int i = 0; i < MOST; i++)
        snprintf(there[i], sizeof there[i], "GPU-%08x-0000-4000-8000-%012x", 0x5a000000u + i, i);
    while (file && fgets(line, sizeof line, file)) {
        if (sscanf(line, "gpus %d", &number) == 1) n = number;
        if (sscanf(line, "gpu %d hidden %d", &which, &number) == 2) away[which % MOST] |= number;
        if (sscanf(line, "gpu %d lost %d", &which, &number) == 2) away[which % MOST] |= number;
        if (sscanf(line, "gpu %d uuid ", &which) == 1 && strstr(line, " uuid "))
            sscanf(strstr(line, " uuid ") + 6, "%95s", there[which % MOST]);
    }
    if (file) fclose(file);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    char all[MOST][96];
    int have = 0;
    for (int i = 0; i < n && i < MOST; i++)
        if (!away[i]) strcpy(all[have++], there[i]);
    if (!visible) {
        memcpy(uuids, all, sizeof all);
        count = have;
        return;
    }
    char *copy = strdup(visible), *rest = copy, *name;
    while ((name = strsep(&rest, ",")) && *name) {
        int found = -1;
        for (int i = 0; i < have; i++)
            if (!strncmp(all[i], name, strlen(name))) found = i;
        if (found < 0 && sscanf(name, "%d", &number) == 1 && number >= 0 && number < have)
            found = number;
        if (found < 0) break;
        strcpy(uuids[count++], all[found]);
    }
    free(copy);
}

API int cuInit(unsigned flags) {
    (void)flags;
    look();
    return count ? 0 : 100; /* CUDA_ERROR_NO_DEVICE */
}
API int cuDeviceGetCount(int *out) {
    *out = count < 0 ? 0 : count;
    return count < 0 ? 3 : 0;
}
API int cuDeviceGet(int *out, int number) {
    *out = number;
    return number >= 0 && number < count ? 0 : 101;
}
API int cuDeviceGetUuid_v2(unsigned char *out, int number) {
    if (number < 0 || number >= count) return 101;
    const char *at = strchr(uuids[number], '-') + 1;
    for (int i = 0; i < 16; at++) {
        unsigned byte;
        if (*at == '-') continue;
        if (sscanf(at, "%2x", &byte) != 1) return 1;
        out[i++] = (unsigned char)byte;
        at++;
    }
    return 0;
}
API int cuDeviceGetUuid(unsigned char *out, int number) { return cuDeviceGetUuid_v2(out, number); }
