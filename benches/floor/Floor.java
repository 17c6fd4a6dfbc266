import com.hazelcast.client.HazelcastClient;
import com.hazelcast.client.config.ClientConfig;
import com.hazelcast.collection.IQueue;
import com.hazelcast.core.HazelcastInstance;
import com.hazelcast.map.IMap;
import java.lang.management.ManagementFactory;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.HashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.ThreadLocalRandom;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;
import java.util.concurrent.atomic.AtomicReference;

/**
 * The floor: what the two clusters give to the official client, which does nothing but `map.set` and `queue.offer`, one after the
 * other, from some threads.
 *
 * <p>usage: Floor OPERATION[,OPERATION…] THREADS[,THREADS…] SECONDS WARM_UP_SECONDS
 *
 * <p>Operations: `pair` (a set, then an offer), `set`, `get`, `offer`. The clusters `logging` and `mq` are those of the environment
 * variables HZ_LOGGING_MEMBERS and HZ_MQ_MEMBERS, lists of host:port with commas. Each operation is measured with each number of
 * threads, after as many seconds that do not count. A line of JSON for each on standard output, times in microseconds:
 * operation, threads, operations, refused (offers for which there was no room), seconds, per_second, p50_us, p99_us, max_us,
 * cpu_seconds (of this process). On standard error a line "measuring OPERATION THREADS" when the seconds begin that count, and
 * "measured OPERATION THREADS" when they are over. examples/bench does the same with the client of this crate; keys, texts and
 * what counts are the same there.
 */
public final class Floor {
    private static final int TEXT_BYTES = 100;
    /** Keys that `get` asks for. */
    private static final int KEPT_KEYS = 10_000;
    /** How many items are taken from the queue at a time, and for how long the first one is waited for. */
    private static final int DRAINED_AT_A_TIME = 1_000;
    private static final int DRAIN_WAIT_MS = 50;

    private final IMap<String, String> map;
    private final IQueue<String> queue;
    private final String[] keys = new String[KEPT_KEYS];
    private final AtomicLong refused = new AtomicLong();

    private Floor(HazelcastInstance logging, HazelcastInstance mq) {
        map = logging.getMap("floor");
        queue = mq.getQueue("floor");
    }

    public static void main(String[] arguments) throws Exception {
        if (arguments.length != 4) {
            System.err.println("usage: Floor OPERATION[,OPERATION…] THREADS[,THREADS…] SECONDS WARM_UP_SECONDS");
            System.exit(2);
        }
        double seconds = Double.parseDouble(arguments[2]);
        double warmUp = Double.parseDouble(arguments[3]);
        HazelcastInstance logging = connect("logging", "HZ_LOGGING_MEMBERS");
        HazelcastInstance mq = connect("mq", "HZ_MQ_MEMBERS");
        Floor floor = new Floor(logging, mq);
        Thread drain = new Thread(floor::drain, "drain");
        drain.setDaemon(true);
        drain.start();
        try {
            for (String name : arguments[0].split(",")) {
                Operation operation = floor.operation(name);
                for (String threads : arguments[1].split(",")) {
                    floor.measure(name, operation, Integer.parseInt(threads), seconds, warmUp);
                }
            }
        } finally {
            floor.map.destroy();
            floor.queue.clear();
        }
        // The thread that drains still waits for items, and has nothing to lose.
        System.exit(0);
    }

    private static HazelcastInstance connect(String cluster, String variable) {
        ClientConfig config = new ClientConfig();
        config.setClusterName(cluster);
        config.getNetworkConfig().setAddresses(Arrays.asList(System.getenv(variable).split(",")));
        return HazelcastClient.newHazelcastClient(config);
    }

    private interface Operation {
        /** Says whether it was done. */
        boolean once(int thread, long number);
    }

    private Operation operation(String name) {
        switch (name) {
            case "pair":
                return (thread, number) -> {
                    String text = text(thread, number);
                    map.set(key(), text);
                    return queue.offer(text);
                };
            case "set":
                return (thread, number) -> {
                    map.set(key(), text(thread, number));
                    return true;
                };
            case "get":
                keepKeys();
                return (thread, number) -> map.get(keys[ThreadLocalRandom.current().nextInt(KEPT_KEYS)]) != null;
            case "offer":
                return (thread, number) -> queue.offer(text(thread, number));
            default:
                throw new IllegalArgumentException("no such operation: " + name);
        }
    }

    private void keepKeys() {
        Map<String, String> kept = new HashMap<>();
        for (int number = 0; number < KEPT_KEYS; number++) {
            keys[number] = key();
            kept.put(keys[number], text(0, number));
        }
        map.setAll(kept);
    }

    /** In the form of a UUIDv7, as the identifiers of messages: milliseconds and chance. */
    private static String key() {
        ThreadLocalRandom random = ThreadLocalRandom.current();
        long most = System.currentTimeMillis() << 16 | 0x7000 | random.nextInt(0x1000);
        long least = random.nextLong() >>> 2 | 1L << 63;
        return new UUID(most, least).toString();
    }

    private static String text(int thread, long number) {
        StringBuilder text = new StringBuilder(TEXT_BYTES).append("floor-").append(thread).append('-').append(number).append('-');
        while (text.length() < TEXT_BYTES) {
            text.append('x');
        }
        return text.toString();
    }

    /** Takes out what was offered, for as long as the process lives. */
    private void drain() {
        List<String> items = new ArrayList<>(DRAINED_AT_A_TIME);
        try {
            while (true) {
                items.clear();
                if (queue.drainTo(items, DRAINED_AT_A_TIME) == 0) {
                    queue.poll(DRAIN_WAIT_MS, TimeUnit.MILLISECONDS);
                }
            }
        } catch (InterruptedException ended) {
            Thread.currentThread().interrupt();
        }
    }

    private void measure(String name, Operation operation, int threads, double seconds, double warmUp) throws Exception {
        run(operation, threads, warmUp);
        refused.set(0);
        System.err.println("measuring " + name + " " + threads);
        long cpuBefore = cpuNanos();
        long began = System.nanoTime();
        int[] micros = run(operation, threads, seconds);
        double took = (System.nanoTime() - began) / 1e9;
        double cpu = (cpuNanos() - cpuBefore) / 1e9;
        System.err.println("measured " + name + " " + threads);
        Arrays.sort(micros);
        System.out.println(String.format(Locale.ROOT,
            "{\"operation\":\"%s\",\"threads\":%d,\"operations\":%d,\"refused\":%d,\"seconds\":%.3f,\"per_second\":%.1f,"
                + "\"p50_us\":%d,\"p99_us\":%d,\"max_us\":%d,\"cpu_seconds\":%.3f}",
            name, threads, micros.length, refused.get(), took, micros.length / took,
            share(micros, 50), share(micros, 99), share(micros, 100), cpu));
    }

    /** How many microseconds that many of a hundred took at most. */
    private static int share(int[] sorted, int percent) {
        int rank = (int) (((long) sorted.length * percent + 99) / 100);
        return rank == 0 ? 0 : sorted[rank - 1];
    }

    /** For so long, from all threads. Returns how many microseconds each operation took that was done. */
    private int[] run(Operation operation, int threads, double seconds) throws Exception {
        long end = System.nanoTime() + (long) (seconds * 1e9);
        int[][] micros = new int[threads][];
        AtomicReference<Throwable> failure = new AtomicReference<>();
        Thread[] all = new Thread[threads];
        for (int thread = 0; thread < threads; thread++) {
            int mine = thread;
            all[thread] = new Thread(() -> {
                try {
                    micros[mine] = repeat(operation, mine, end);
                } catch (Throwable thrown) {
                    failure.compareAndSet(null, thrown);
                }
            });
            all[thread].start();
        }
        for (Thread thread : all) {
            thread.join();
        }
        if (failure.get() != null) {
            throw new IllegalStateException("an operation failed", failure.get());
        }
        return Arrays.stream(micros).flatMapToInt(Arrays::stream).toArray();
    }

    private int[] repeat(Operation operation, int thread, long end) {
        int[] micros = new int[1 << 14];
        int count = 0;
        long began = System.nanoTime();
        for (long number = 0; began < end; number++) {
            boolean done = operation.once(thread, number);
            long now = System.nanoTime();
            if (!done) {
                refused.incrementAndGet();
            } else {
                if (count == micros.length) {
                    micros = Arrays.copyOf(micros, count * 2);
                }
                micros[count++] = (int) Math.min((now - began) / 1_000, Integer.MAX_VALUE);
            }
            began = now;
        }
        return Arrays.copyOf(micros, count);
    }

    private static long cpuNanos() {
        return ((com.sun.management.OperatingSystemMXBean) ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
    }
}
