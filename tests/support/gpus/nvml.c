/* Stands in for NVIDIA's libnvidia-ml.so.1 on a machine without a GPU.
 *
 * The real pynvml and nvitop load it and see the GPUs that a text file describes: the one that
 * STAND_IN_GPUS names. It is read again whenever it has changed, so a test changes the node by
 * renaming a new file over it. One word per line says what, the next which:
 *
 *   driver 550.54.15           cuda 12040            init_error 9
 *   gpus 8                     the GPUs 0 to 7, idle; their indices are these, if none is hidden
 *   gpu 3 name NVIDIA A100     gpu 3 uuid GPU-...    gpu 3 memory 81920    gpu 3 reserved 600
 *   gpu 3 used 1024            MiB in use by all
 *   gpu 3 util 90 / temp 60 / power 250000 / cc 80 / bus 7 / ecc 1 / dbe_total 2
 *   gpu 3 lost 1               fell off the bus: every query of it answers GPU_IS_LOST
 *   gpu 3 error 999            every query of it answers this code
 *   gpu 3 hidden 1             as after a restart without it: those behind it move up
 *   gpu 3 without util,power   these groups of queries are not supported
 *   gpu 3 compute 4242 1024    a process and its MiB; '?': not available. Also: graphics
 *   gpu 3 xid 1 79             the event number 1 is an Xid 79; a new number is a new event
 *   gpu 3 dbe 1                likewise a double-bit ECC error
 *   gpu 3 switch 0 / numa 0    what it shares with others: how close they are
 *   gpu 3 mig 1                MIG is on
 *   gpu 3 instance 7 0 1g.10gb 9856 0      of MIG: gpu and compute instance, profile, MiB, used
 *   lookup_breaks 1            one lost GPU makes every look-up by UUID fail, as nvml.h allows
 *
 * The layouts are those of pynvml's ctypes structures; a test compares their sizes.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MOST 64
#define MOST_LISTED 16
#define MIB (UINT64_C(1) << 20)

typedef int status;
enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7,
    TIMED_OUT = 10, LOST = 15, WRONG_VERSION = 25,
};

struct pci { char legacy[16]; uint32_t domain, bus, device, id, subsystem; char text[32]; };
struct memory { uint64_t total, free, used; };
struct memory_v2 { uint32_t version; uint64_t total, reserved, free, used; };
struct rates { uint32_t gpu, memory; };
struct process { uint32_t pid; uint64_t used; uint32_t gpu_instance, compute_instance; };
struct process_v1 { uint32_t pid; uint64_t used; };
struct attributes { uint32_t units[8]; uint64_t memory_mb; };
struct event { void *device; uint64_t type, data; uint32_t gpu_instance, compute_instance; };
struct temperature { uint32_t version, sensor; int32_t value; };

struct instance { char uuid[96], profile[32]; uint32_t gi, ci; uint64_t total, used; };
struct gpu {
    char name[96], uuid[96], without[128];
    uint32_t error, lost, hidden, util, temp, power, cc, bus, ecc, mig, numa, switch_;
    uint64_t memory, reserved, used, dbe_total;
    uint32_t xid_number, xid, dbe_number;
    int n_compute, n_graphics, n_instances;
    struct process compute[MOST_LISTED], graphics[MOST_LISTED];
    struct instance instances[MOST_LISTED];
};
static struct {
    uint32_t gpus, init_error, cuda, lookup_breaks;
    char driver[80];
    struct gpu gpu[MOST];
} state;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct stat read_at;
static int was_there = -1, users;

/* A handle is an address here: it outlives a shift of the indices, as the driver's does. */
static char gpu_handles[MOST], instance_handles[MOST][MOST_LISTED];

/* -- the file ---------------------------------------------------------------------------------- */

static void begin(void) {
    memset(&state, 0, sizeof state);
    state.cuda = 12040;
    strcpy(state.driver, "550.54.15");
    for (int i = 0; i < MOST; i++) {
        struct gpu *gpu = &state.gpu[i];
        strcpy(gpu->name, "NVIDIA A100-SXM4-80GB");
        sprintf(gpu->uuid, "GPU-%08x-0000-4000-8000-%012x", 0x5a000000u + i, i);
        gpu->memory = 81920, gpu->reserved = 600, gpu->temp = 34, gpu->power = 62000;
        gpu->cc = 80, gpu->bus = 7 + 8 * i, gpu->ecc = 1, gpu->numa = i / 4, gpu->switch_ = i / 2;
    }
}

static void add_process(struct process *list, int *count, const char *text) {
    char used[32];
    uint32_t pid;
    if (*count >= MOST_LISTED || sscanf(text, "%u %31s", &pid, used) != 2) return;
    uint64_t bytes = used[0] == '?' ? UINT64_MAX : strtoull(used, NULL, 10) * MIB;
    list[(*count)++] = (struct process){pid, bytes, UINT32_MAX, UINT32_MAX};
}

static void add_instance(struct gpu *gpu, const char *text) {
    if (gpu->n_instances >= MOST_LISTED) return;
    struct instance *one = &gpu->instances[gpu->n_instances];
    unsigned long long total, used;
    if (sscanf(text, "%u %u %31s %llu %llu", &one->gi, &one->ci, one->profile, &total, &used) != 5)
        return;
    one->total = total, one->used = used;
    size_t length = strlen(gpu->uuid);
    snprintf(one->uuid, sizeof one->uuid, "MIG-%08x-%04x-4%03x-8000-", 0x3160000u, one->gi & 0xffff,
             one->ci & 0xfff);
    strcat(one->uuid, gpu->uuid + (length > 12 ? length - 12 : 0));
    gpu->n_instances++;
}

static void set(struct gpu *gpu, const char *key, const char *text) {
    uint64_t number = strtoull(text, NULL, 0);
    const struct { const char *key; uint32_t *at; } small[] = {
        {"error", &gpu->error}, {"lost", &gpu->lost}, {"hidden", &gpu->hidden},
        {"util", &gpu->util}, {"temp", &gpu->temp}, {"power", &gpu->power}, {"cc", &gpu->cc},
        {"bus", &gpu->bus}, {"ecc", &gpu->ecc}, {"mig", &gpu->mig}, {"numa", &gpu->numa},
        {"switch", &gpu->switch_}, {"dbe", &gpu->dbe_number},
    };
    const struct { const char *key; uint64_t *at; } large[] = {
        {"memory", &gpu->memory}, {"reserved", &gpu->reserved}, {"used", &gpu->used},
        {"dbe_total", &gpu->dbe_total},
    };
    for (size_t i = 0; i < sizeof small / sizeof *small; i++)
        if (!strcmp(key, small[i].key)) *small[i].at = (uint32_t)number;
    for (size_t i = 0; i < sizeof large / sizeof *large; i++)
        if (!strcmp(key, large[i].key)) *large[i].at = number;
    if (!strcmp(key, "name")) snprintf(gpu->name, sizeof gpu->name, "%s", text);
    if (!strcmp(key, "uuid")) snprintf(gpu->uuid, sizeof gpu->uuid, "%s", text);
    if (!strcmp(key, "without")) snprintf(gpu->without, sizeof gpu->without, "%s", text);
    if (!strcmp(key, "xid")) sscanf(text, "%u %u", &gpu->xid_number, &gpu->xid);
    if (!strcmp(key, "compute")) add_process(gpu->compute, &gpu->n_compute, text);
    if (!strcmp(key, "graphics")) add_process(gpu->graphics, &gpu->n_graphics, text);
    if (!strcmp(key, "instance")) add_instance(gpu, text);
}

static void read_line(char *line) {
    char key[32], which[32];
    int at = 0;
    line[strcspn(line, "\r\n")] = 0;
    if (!strncmp(line, "gpu ", 4) && sscanf(line, "gpu %31s %31s %n", which, key, &at) == 2 && at) {
        int number = atoi(which);
        if (number >= 0 && number < MOST) set(&state.gpu[number], key, line + at);
    } else if (sscanf(line, "%31s %n", key, &at) == 1 && at) {
        uint32_t number = (uint32_t)strtoul(line + at, NULL, 0);
        if (!strcmp(key, "gpus")) state.gpus = number > MOST ? MOST : number;
        if (!strcmp(key, "cuda")) state.cuda = number;
        if (!strcmp(key, "init_error")) state.init_error = number;
        if (!strcmp(key, "lookup_breaks")) state.lookup_breaks = number;
        if (!strcmp(key, "driver")) snprintf(state.driver, sizeof state.driver, "%s", line + at);
    }
}

/* With the lock held: the state as the file has it now. */
static void look(void) {
    const char *path = getenv("STAND_IN_GPUS");
    struct stat now;
    int there = path && stat(path, &now) == 0;
    if (there == was_there &&
        (!there || (now.st_ino == read_at.st_ino && now.st_size == read_at.st_size &&
                    now.st_mtim.tv_sec == read_at.st_mtim.tv_sec &&
                    now.st_mtim.tv_nsec == read_at.st_mtim.tv_nsec)))
        return;
    begin();
    was_there = there;
    FILE *file = there ? fopen(path, "re") : NULL;
    char line[512];
    while (file && fgets(line, sizeof line, file)) read_line(line);
    if (file) fclose(file);
    if (there) read_at = now;
}

/* -- handles ----------------------------------------------------------------------------------- */

/* The GPU's number in the file, and of MIG the instance's (-1: the GPU itself); -1: no handle. */
static int number_of(const void *handle, int *instance) {
    const char *at = handle, *first = &instance_handles[0][0];
    *instance = -1;
    if (at >= gpu_handles && at < gpu_handles + MOST) return (int)(at - gpu_handles);
    if (at < first || at >= first + sizeof instance_handles) return -1;
    *instance = (int)((at - first) % MOST_LISTED);
    return (int)((at - first) / MOST_LISTED);
}

/* A copy of what a handle stands for, or why there is none. */
static status ask(const void *handle, const char *group, struct gpu *gpu, int *instance) {
    int part, number = number_of(handle, &part);
    status said = SUCCESS;
    pthread_mutex_lock(&lock);
    look();
    if (!users) said = UNINITIALIZED;
    else if (number < 0) said = INVALID;
    else if ((uint32_t)number >= state.gpus) said = LOST;
    else {
        *gpu = state.gpu[number];
        if (gpu->lost || gpu->hidden) said = LOST;
        else if (gpu->error) said = (status)gpu->error;
        else if (part >= 0 && (!gpu->mig || part >= gpu->n_instances)) said = NOT_FOUND;
        else if (group && strstr(gpu->without, group)) said = UNSUPPORTED;
        else if (part >= 0 && !instance) said = INVALID;
    }
    pthread_mutex_unlock(&lock);
    if (instance) *instance = part;
    return said;
}

static status text_out(const char *text, char *out, uint32_t size) {
    if (strlen(text) >= size) return TOO_SMALL;
    strcpy(out, text);
    return SUCCESS;
}

/* -- the library ------------------------------------------------------------------------------- */

API status nvmlInitWithFlags(uint32_t flags) {
    (void)flags;
    pthread_mutex_lock(&lock);
    look();
    status said = (status)state.init_error;
    if (!said) users++;
    pthread_mutex_unlock(&lock);
    return said;
}
API status nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API status nvmlInit(void) { return nvmlInitWithFlags(0); }

API status nvmlShutdown(void) {
    pthread_mutex_lock(&lock);
    status said = users ? SUCCESS : UNINITIALIZED;
    if (users) users--;
    pthread_mutex_unlock(&lock);
    return said;
}

API const char *nvmlErrorString(status code) {
    switch (code) {
    case SUCCESS: return "Success";
    case UNINITIALIZED: return "Uninitialized";
    case UNSUPPORTED: return "Not Supported";
    case NOT_FOUND: return "Not Found";
    case 9: return "Driver Not Loaded";
    case TIMED_OUT: return "Timeout";
    case LOST: return "GPU is lost";
    default: return "Unknown Error";
    }
}

static status of_system(const char *what, char *out, uint32_t size) {
    pthread_mutex_lock(&lock);
    look();
    status said = users ? text_out(what, out, size) : UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return said;
}
API status nvmlSystemGetDriverVersion(char *out, uint32_t size) {
    return of_system(state.driver, out, size);
}
API status nvmlSystemGetNVMLVersion(char *out, uint32_t size) {
    return of_system("12.550.54.15", out, size);
}
API status nvmlSystemGetCudaDriverVersion_v2(int *out) {
    pthread_mutex_lock(&lock);
    look();
    *out = (int)state.cuda;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}
API status nvmlSystemGetCudaDriverVersion(int *out) { return nvmlSystemGetCudaDriverVersion_v2(out); }

/* -- finding a device -------------------------------------------------------------------------- */

API status nvmlDeviceGetCount_v2(uint32_t *out) {
    pthread_mutex_lock(&lock);
    look();
    *out = 0;
    for (uint32_t i = 0; i < state.gpus; i++) *out += !state.gpu[i].hidden;
    status said = users ? SUCCESS : UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return said;
}
API status nvmlDeviceGetCount(uint32_t *out) { return nvmlDeviceGetCount_v2(out); }

API status nvmlDeviceGetHandleByIndex_v2(uint32_t index, void **out) {
    status said = INVALID;
    pthread_mutex_lock(&lock);
    look();
    for (uint32_t i = 0, at = 0; i < state.gpus && said == INVALID; i++)
        if (!state.gpu[i].hidden && at++ == index) {
            *out = &gpu_handles[i];
            said = state.gpu[i].lost ? LOST : SUCCESS;
        }
    if (!users) said = UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return said;
}
API status nvmlDeviceGetHandleByIndex(uint32_t index, void **out) {
    return nvmlDeviceGetHandleByIndex_v2(index, out);
}

static void bus_id(const struct gpu *gpu, char *out) { sprintf(out, "00000000:%02X:00.0", gpu->bus); }

static status find(const char *text, int by_uuid, void **out) {
    status said = NOT_FOUND;
    int any_lost = 0;
    char bus[32];
    pthread_mutex_lock(&lock);
    look();
    for (uint32_t i = 0; i < state.gpus; i++) {
        struct gpu *gpu = &state.gpu[i];
        if (gpu->hidden) continue;
        any_lost |= (int)gpu->lost;
        bus_id(gpu, bus);
        if (by_uuid ? !strcmp(text, gpu->uuid) : !strcasecmp(text, bus)) {
            *out = &gpu_handles[i];
            said = gpu->lost ? LOST : SUCCESS;
        }
        for (int k = 0; by_uuid && gpu->mig && k < gpu->n_instances; k++)
            if (!strcmp(text, gpu->instances[k].uuid)) *out = &instance_handles[i][k], said = SUCCESS;
    }
    if (by_uuid && state.lookup_breaks && any_lost) said = LOST;
    if (!users) said = UNINITIALIZED;
    pthread_mutex_unlock(&lock);
    return said;
}
API status nvmlDeviceGetHandleByUUID(const char *uuid, void **out) { return find(uuid, 1, out); }
API status nvmlDeviceGetHandleByPciBusId_v2(const char *id, void **out) { return find(id, 0, out); }
API status nvmlDeviceGetHandleByPciBusId(const char *id, void **out) { return find(id, 0, out); }

API status nvmlDeviceGetIndex(void *handle, uint32_t *out) {
    struct gpu gpu;
    int instance, number;
    status said = ask(handle, NULL, &gpu, &instance);
    if (said) return said;
    number = number_of(handle, &instance);
    *out = instance >= 0 ? (uint32_t)instance : 0;
    pthread_mutex_lock(&lock);
    for (int i = 0; instance < 0 && i < number; i++) *out += !state.gpu[i].hidden;
    pthread_mutex_unlock(&lock);
    return SUCCESS;
}

/* -- what it is -------------------------------------------------------------------------------- */

API status nvmlDeviceGetName(void *handle, char *out, uint32_t size) {
    struct gpu gpu;
    int instance;
    char text[160];
    status said = ask(handle, NULL, &gpu, &instance);
    if (said) return said;
    if (instance < 0) return text_out(gpu.name, out, size);
    snprintf(text, sizeof text, "%s MIG %s", gpu.name, gpu.instances[instance].profile);
    return text_out(text, out, size);
}
API status nvmlDeviceGetUUID(void *handle, char *out, uint32_t size) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, NULL, &gpu, &instance);
    return said ? said : text_out(instance < 0 ? gpu.uuid : gpu.instances[instance].uuid, out, size);
}
API status nvmlDeviceGetPciInfo_v3(void *handle, struct pci *out) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, NULL, &gpu, &instance);
    if (said) return said;
    memset(out, 0, sizeof *out);
    out->bus = gpu.bus;
    out->id = 0x20B210DE;
    bus_id(&gpu, out->text);
    memcpy(out->legacy, out->text + 4, 13);
    return SUCCESS;
}
API status nvmlDeviceGetPciInfo_v2(void *h, struct pci *out) { return nvmlDeviceGetPciInfo_v3(h, out); }
API status nvmlDeviceGetPciInfo(void *h, struct pci *out) { return nvmlDeviceGetPciInfo_v3(h, out); }

API status nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, NULL, &gpu, &instance);
    if (!said) *major = (int)gpu.cc / 10, *minor = (int)gpu.cc % 10;
    return said;
}

/* -- how it is --------------------------------------------------------------------------------- */

static status amounts(void *handle, uint64_t *total, uint64_t *reserved, uint64_t *used) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, "memory", &gpu, &instance);
    if (said) return said;
    *total = (instance < 0 ? gpu.memory : gpu.instances[instance].total) * MIB;
    *used = (instance < 0 ? gpu.used : gpu.instances[instance].used) * MIB;
    *reserved = (instance < 0 ? gpu.reserved : 0) * MIB;
    return SUCCESS;
}
/* The first version counts as used what the driver keeps for itself; the second has it apart. */
API status nvmlDeviceGetMemoryInfo(void *handle, struct memory *out) {
    uint64_t total, reserved, used;
    status said = amounts(handle, &total, &reserved, &used);
    if (!said) *out = (struct memory){total, total - reserved - used, reserved + used};
    return said;
}
API status nvmlDeviceGetMemoryInfo_v2(void *handle, struct memory_v2 *out) {
    uint64_t total, reserved, used;
    if (out->version != (sizeof *out | 2u << 24)) return WRONG_VERSION;
    status said = amounts(handle, &total, &reserved, &used);
    if (!said) *out = (struct memory_v2){out->version, total, reserved, total - reserved - used, used};
    return said;
}
API status nvmlDeviceGetUtilizationRates(void *handle, struct rates *out) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, "util", &gpu, &instance);
    if (!said && (gpu.mig || instance >= 0)) return UNSUPPORTED;
    if (!said) *out = (struct rates){gpu.util, gpu.util / 2};
    return said;
}
API status nvmlDeviceGetTemperatureV(void *handle, struct temperature *out) {
    struct gpu gpu;
    if (out->version != (sizeof *out | 1u << 24)) return WRONG_VERSION;
    status said = ask(handle, "temp", &gpu, NULL);
    if (!said) out->value = (int32_t)gpu.temp;
    return said;
}
API status nvmlDeviceGetMaxMigDeviceCount(void *handle, uint32_t *out) {
    struct gpu gpu;
    status said = ask(handle, NULL, &gpu, NULL);
    if (!said) *out = gpu.mig ? 7 : 0;
    return said;
}
API status nvmlDeviceGetTemperature(void *handle, int sensor, uint32_t *out) {
    struct gpu gpu;
    (void)sensor;
    status said = ask(handle, "temp", &gpu, NULL);
    if (!said) *out = gpu.temp;
    return said;
}
#define ONE_NUMBER(function, group, value)             \
    API status function(void *handle, uint32_t *out) { \
        struct gpu gpu;                                \
        status said = ask(handle, group, &gpu, NULL);  \
        if (!said) *out = (value);                     \
        return said;                                   \
    }
ONE_NUMBER(nvmlDeviceGetPowerUsage, "power", gpu.power)
ONE_NUMBER(nvmlDeviceGetPowerManagementLimit, "power", 400000)
ONE_NUMBER(nvmlDeviceGetEnforcedPowerLimit, "power", 400000)
ONE_NUMBER(nvmlDeviceGetFanSpeed, "fan", 30)
ONE_NUMBER(nvmlDeviceGetPersistenceMode, "persistence", 1)
ONE_NUMBER(nvmlDeviceGetComputeMode, "mode", 0)
ONE_NUMBER(nvmlDeviceGetDisplayActive, "display", 0)
ONE_NUMBER(nvmlDeviceGetDisplayMode, "display", 0)
ONE_NUMBER(nvmlDeviceGetPerformanceState, "state", gpu.util ? 0 : 8)
ONE_NUMBER(nvmlDeviceGetMinorNumber, NULL, (gpu.bus - 7) / 8)

API status nvmlDeviceGetEccMode(void *handle, uint32_t *now, uint32_t *pending) {
    struct gpu gpu;
    status said = ask(handle, "ecc", &gpu, NULL);
    if (!said) *now = *pending = gpu.ecc;
    return said;
}
API status nvmlDeviceGetTotalEccErrors(void *handle, int type, int counter, uint64_t *out) {
    struct gpu gpu;
    (void)counter;
    status said = ask(handle, "ecc", &gpu, NULL);
    if (!said) *out = type == 1 ? gpu.dbe_total : 0;
    return said;
}
API status nvmlDeviceGetClockInfo(void *handle, int type, uint32_t *out) {
    struct gpu gpu;
    status said = ask(handle, "clock", &gpu, NULL);
    if (!said) *out = type == 2 ? 1593 : 210;
    return said;
}

/* -- processes --------------------------------------------------------------------------------- */

static status list(void *handle, int graphics, uint32_t *count, struct process *out) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, "processes", &gpu, &instance);
    if (said) return said;
    int n = instance >= 0 ? 0 : graphics ? gpu.n_graphics : gpu.n_compute;
    uint32_t room = *count;
    *count = (uint32_t)n;
    if (room < (uint32_t)n) return TOO_SMALL;
    for (int i = 0; out && i < n; i++) out[i] = graphics ? gpu.graphics[i] : gpu.compute[i];
    return SUCCESS;
}
API status nvmlDeviceGetComputeRunningProcesses_v3(void *h, uint32_t *n, struct process *out) {
    return list(h, 0, n, out);
}
API status nvmlDeviceGetComputeRunningProcesses_v2(void *h, uint32_t *n, struct process *out) {
    return list(h, 0, n, out);
}
API status nvmlDeviceGetGraphicsRunningProcesses_v3(void *h, uint32_t *n, struct process *out) {
    return list(h, 1, n, out);
}
API status nvmlDeviceGetGraphicsRunningProcesses_v2(void *h, uint32_t *n, struct process *out) {
    return list(h, 1, n, out);
}
API status nvmlDeviceGetMPSComputeRunningProcesses_v3(void *h, uint32_t *n, struct process *out) {
    struct gpu gpu;
    int instance;
    (void)out;
    status said = ask(h, "processes", &gpu, &instance);
    if (!said) *n = 0;
    return said;
}

/* -- MIG --------------------------------------------------------------------------------------- */

API status nvmlDeviceGetMigMode(void *handle, uint32_t *now, uint32_t *pending) {
    struct gpu gpu;
    status said = ask(handle, "mig", &gpu, NULL);
    if (!said) *now = *pending = gpu.mig;
    return said;
}
API status nvmlDeviceGetMigDeviceHandleByIndex(void *handle, uint32_t index, void **out) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, NULL, &gpu, NULL);
    if (said) return said;
    if (!gpu.mig || index >= (uint32_t)gpu.n_instances) return NOT_FOUND;
    *out = &instance_handles[number_of(handle, &instance)][index];
    return SUCCESS;
}
API status nvmlDeviceIsMigDeviceHandle(void *handle, uint32_t *out) {
    int instance, number = number_of(handle, &instance);
    *out = instance >= 0;
    return number < 0 ? INVALID : SUCCESS;
}
API status nvmlDeviceGetDeviceHandleFromMigDeviceHandle(void *handle, void **out) {
    int instance, number = number_of(handle, &instance);
    if (instance < 0) return INVALID;
    *out = &gpu_handles[number];
    return SUCCESS;
}
static status part_of(void *handle, struct instance *out) {
    struct gpu gpu;
    int instance;
    status said = ask(handle, NULL, &gpu, &instance);
    if (said) return said;
    if (instance < 0) return UNSUPPORTED;
    *out = gpu.instances[instance];
    return SUCCESS;
}
API status nvmlDeviceGetGpuInstanceId(void *handle, uint32_t *out) {
    struct instance one;
    status said = part_of(handle, &one);
    if (!said) *out = one.gi;
    return said;
}
API status nvmlDeviceGetComputeInstanceId(void *handle, uint32_t *out) {
    struct instance one;
    status said = part_of(handle, &one);
    if (!said) *out = one.ci;
    return said;
}
API status nvmlDeviceGetAttributes_v2(void *handle, struct attributes *out) {
    struct instance one;
    status said = part_of(handle, &one);
    if (said) return said;
    memset(out, 0, sizeof *out);
    out->memory_mb = one.total;
    return SUCCESS;
}

/* -- events and closeness ---------------------------------------------------------------------- */

struct event_set { uint64_t types[MOST]; uint32_t xid[MOST], dbe[MOST]; };
enum { DOUBLE_BIT = 2, XID = 8 };

API status nvmlEventSetCreate(void **out) {
    *out = calloc(1, sizeof(struct event_set));
    return *out ? SUCCESS : 20;
}
API status nvmlEventSetFree(void *set) {
    free(set);
    return SUCCESS;
}
ONE_NUMBER(stand_in_supported, "events", 0x1f)
API status nvmlDeviceGetSupportedEventTypes(void *handle, uint64_t *out) {
    uint32_t types;
    status said = stand_in_supported(handle, &types);
    if (!said) *out = types;
    return said;
}
API status nvmlDeviceRegisterEvents(void *handle, uint64_t types, void *into) {
    struct event_set *set = into;
    struct gpu gpu;
    int instance;
    status said = ask(handle, "events", &gpu, NULL);
    if (said) return said;
    int number = number_of(handle, &instance);
    set->types[number] |= types;
    set->xid[number] = gpu.xid_number;
    set->dbe[number] = gpu.dbe_number;
    return SUCCESS;
}

static int next_event(struct event_set *set, struct event *out, status *said) {
    for (int i = 0; i < MOST; i++) {
        struct gpu *gpu = &state.gpu[i];
        if (!set->types[i]) continue;
        *out = (struct event){&gpu_handles[i], 0, 0, UINT32_MAX, UINT32_MAX};
        *said = SUCCESS;
        if ((set->types[i] & XID) && set->xid[i] != gpu->xid_number) {
            set->xid[i] = gpu->xid_number;
            out->type = XID, out->data = gpu->xid;
            return 1;
        }
        if ((set->types[i] & DOUBLE_BIT) && set->dbe[i] != gpu->dbe_number) {
            set->dbe[i] = gpu->dbe_number;
            out->type = DOUBLE_BIT;
            return 1;
        }
        if (gpu->lost) { /* the driver says so too, and does not say which */
            *said = LOST;
            return 1;
        }
    }
    return 0;
}
API status nvmlEventSetWait_v2(void *from, struct event *out, uint32_t milliseconds) {
    struct timespec begun, now;
    clock_gettime(CLOCK_MONOTONIC, &begun);
    for (;;) {
        status said = UNINITIALIZED;
        pthread_mutex_lock(&lock);
        look();
        int done = !users || next_event(from, out, &said);
        pthread_mutex_unlock(&lock);
        if (done) return said;
        clock_gettime(CLOCK_MONOTONIC, &now);
        int64_t passed = (now.tv_sec - begun.tv_sec) * INT64_C(1000) +
                         (now.tv_nsec - begun.tv_nsec) / 1000000;
        if (passed >= (int64_t)milliseconds) return TIMED_OUT;
        usleep(5000);
    }
}
API status nvmlEventSetWait(void *set, struct event *out, uint32_t milliseconds) {
    return nvmlEventSetWait_v2(set, out, milliseconds);
}

API status nvmlDeviceGetTopologyCommonAncestor(void *one, void *other, int *out) {
    struct gpu a, b;
    status said = ask(one, "topology", &a, NULL);
    if (!said) said = ask(other, "topology", &b, NULL);
    if (!said) *out = a.switch_ == b.switch_ ? 10 : a.numa == b.numa ? 40 : 50;
    return said;
}

/* For the test of the layouts. */
API uint32_t stand_in_size(const char *name) {
    const struct { const char *name; size_t size; } sizes[] = {
        {"nvmlPciInfo_t", sizeof(struct pci)}, {"c_nvmlMemory_t", sizeof(struct memory)},
        {"c_nvmlMemory_v2_t", sizeof(struct memory_v2)},
        {"c_nvmlUtilization_t", sizeof(struct rates)},
        {"c_nvmlProcessInfo_v3_t", sizeof(struct process)},
        {"c_nvmlDeviceAttributes", sizeof(struct attributes)},
        {"c_nvmlEventData_t", sizeof(struct event)},
        {"c_nvmlTemperature_v1_t", sizeof(struct temperature)},
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        if (!strcmp(name, sizes[i].name)) return (uint32_t)sizes[i].size;
    return 0;
}
